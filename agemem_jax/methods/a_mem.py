"""A-Mem (arXiv 2502.12110): notes with keywords, tags and a context, which link and evolve.

The memory of a-mem 0.2.6, a fork of the paper's code: each message becomes a note that a first call
describes; a second call sees the nearest notes, links the new one and rewrites their descriptions.
What differs:

- The instructions are in our own words, and short in the compact style; they stand in the system
  turn. Notes have no time, since nothing here reads a clock.
- The library asks its endpoint for JSON of a schema. Replies here are not held to it while they are
  sampled; instead, a reply may have a thought, a code fence or text around its JSON (`strict`).
- What is recalled are the notes nearest to the message and those linked to them, with content, as
  in the paper's code; a note is shown once. The library's own search leaves contents out.
- Where a description is malformed, the library raises, or keeps what it failed to store in a cache;
  here the note is not stored, or the neighbour stays as it was.
- A prompt beyond T_max is cut, and the store has a capacity; the library knows neither limit.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from agemem_jax.methods.mem0 import ReplyError, read_object
from agemem_jax.methods.memory_system import MemorySystem, Pipeline, SystemEpisode
from agemem_jax.protocol import prompts
from agemem_jax.protocol.events import RetrievedEntry
from agemem_jax.rollout.requests import Generate
from agemem_jax.rollout.tool_use import Play

_DESCRIBE = {
    "full": """\
Describe the text that you are given, so that it can be found and understood later:
1. The words that matter most: nouns, verbs, concepts.
2. What it is about as a whole.
3. Broad categories that it belongs to.

Reply in JSON only: an object with three keys.
"keywords": a list of particular, distinct words, the most important first. At least three, none \
that says what another one says, and neither a time nor the name of who speaks.
"context": one sentence that says what the topic is, what the text says of it, and for whom or \
for what it is meant.
"tags": a list of broad categories: of the topic, the form and the kind of text. At least three, \
none that says what another one says.

Example:
{"keywords": ["bicycle", "repair", "chain"], "context": "A person tells how a bicycle chain was \
repaired, to help others do it.", "tags": ["household", "report", "advice"]}""",
    "compact": """\
Describe the text. Reply in JSON only:
{"keywords": ["..."], "context": "one sentence", "tags": ["..."]}
Example: Ana lives in Rome.
{"keywords": ["Ana", "Rome"], "context": "Where Ana lives.", "tags": ["place"]}""",
}

_EVOLVE = {
    "full": """\
You look after notes that develop over time. You are given a new note, and the notes nearest to \
it, one a line, each with its id. Decide whether anything should develop:
1. Does the new note bear on the others? If not, "should_evolve" is false.
2. Two actions can be taken:
   - "strengthen" links the new note to others: give their ids, and the tags that the new note \
has from now on.
   - "update_neighbor" gives the nearest notes new contexts and tags, as they are understood \
beside the new one. Give one context and one list of tags for each of them, in their order; where \
one stays the same, repeat what it has.
Tags say what notes are about, so that they can be found and sorted by them.

Reply in JSON only, in this form:
{"should_evolve": true or false, "actions": ["strengthen", "update_neighbor"], \
"suggested_connections": ["id", ...], "tags_to_update": ["tag", ...], \
"new_context_neighborhood": ["context", ...], "new_tags_neighborhood": [["tag", ...], ...]}""",
    "compact": """\
Link a new note to the notes near it, and renew theirs. Reply in JSON only:
{"should_evolve": true, "actions": ["strengthen", "update_neighbor"], \
"suggested_connections": ["id"], "tags_to_update": ["tag of the new note"], \
"new_context_neighborhood": ["one each"], "new_tags_neighborhood": [["one list each"]]}
Or, if nothing changes: {"should_evolve": false}""",
}

_NO_CONTEXT = "General"  # what the library writes where there is none, and does not embed


@dataclasses.dataclass(frozen=True)
class AMem(MemorySystem):
    """A-Mem.

    Attributes:
      neighbours: how many of the nearest notes may evolve with a new one; the library's number.
      strict: whether a reply must be JSON and nothing else, as the library reads what its endpoint
        was told to write.
    """

    title: ClassVar[str] = "A-Mem"

    neighbours: int = 5
    strict: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.neighbours < 1:
            raise ValueError(f"neighbours is {self.neighbours}; it must be at least 1.")

    def instructions(self, style: str) -> tuple[str, ...]:
        return (_DESCRIBE[style], _EVOLVE[style])

    def begin(self, episode: SystemEpisode) -> "NotePipeline":
        return NotePipeline(episode, self)

    def demonstrate(self, request: Generate, agent: Any) -> Any:
        text = request.context.messages[-1].text
        if request.purpose == "describe":
            facts = agent.facts_in(text)
            names = [name for r in map(agent.relation_of, facts) if r for name in (r[0], r[2])]
            context = " ".join(facts) or "Small talk."
            return {"keywords": names, "context": context, "tags": ["fact" if facts else "talk"]}
        if request.purpose != "evolve":
            return None
        _, new, _, *near = text.splitlines()
        words = set(json.loads(new)["keywords"])
        related = [each["id"] for each in map(json.loads, near) if words & {*each["keywords"]}]
        if not related:
            return {"should_evolve": False}
        return {
            "should_evolve": True,
            "actions": ["strengthen"],
            "suggested_connections": related[:2],
            "tags_to_update": ["fact", "linked"],
        }


@dataclasses.dataclass(frozen=True)
class Note:
    """One message with its description, each part whatever the model wrote.

    Attributes:
      content: the message.
      keywords, tags: lists of words, if all is well.
      context: a sentence, if all is well.
      links: ids of other notes; those that name none are never followed.
    """

    content: str
    keywords: Any
    context: Any
    tags: Any
    links: tuple[Any, ...] = ()

    @property
    def text(self) -> str:
        """What is embedded, stored and shown.

        Raises:
          ReplyError: keywords or tags cannot be written as words.
        """
        text = self.content
        if self.context != _NO_CONTEXT:
            text += f" context: {self.context}"
        for name, value in (("keywords", self.keywords), ("tags", self.tags)):
            words = _words(name, value)
            text += f" {name}: {words}" if words is not None else ""
        return text


class NotePipeline(Pipeline):
    """A-Mem in one episode.

    Attributes:
      notes: by the ids of their entries in the store.
    """

    def __init__(self, episode: SystemEpisode, method: AMem):
        super().__init__(episode)
        self._method, self._style = method, episode.config.prompt_style
        self.notes: dict[str, Note] = {}

    def remember(self, message: str) -> Play:
        try:
            note = yield from self._describe(message)
            if self.notes:
                note = yield from self._evolve(note)
            text = note.text
        except ReplyError as error:
            self.episode.malformed(f"The note is not stored: {error}")
            return
        result = yield from self.episode.add(text)
        if result.ok:
            self.notes[result.memory_id] = note

    def recall(self, query: str) -> Play:
        """The nearest notes, and behind each those linked to it."""
        top_k = self.episode.config.top_k
        nearest = yield from self.episode.search(query, top_k)
        shown: dict[str, RetrievedEntry] = {}
        for entry in nearest:
            shown.setdefault(entry.memory_id, entry)
            links = [link for link in self.notes[entry.memory_id].links if self._is_note(link)]
            for link in links[:top_k]:  # with the score of the note that it is linked to
                linked = RetrievedEntry(link, self.episode.memory[link], entry.score)
                shown.setdefault(link, linked)
        found = {entry.memory_id for entry in nearest}
        linked = [entry for entry in shown.values() if entry.memory_id not in found]
        if linked:
            self.episode.found(query, linked)
        return prompts.memories_text(list(shown.values())) if shown else ""

    def _describe(self, message: str) -> Play:
        """The note of a message; a plain one where the reply is no JSON. Raises ReplyError."""
        reply = yield from self.episode.ask("describe", _DESCRIBE[self._style], (message,))
        try:
            value = self._read(reply)
        except ReplyError as error:
            self.episode.malformed(str(error))
            value = {}
        if not isinstance(value, Mapping):
            raise ReplyError("its description is no JSON object.")
        return Note(
            message,
            keywords=value.get("keywords", []),
            context=value.get("context", _NO_CONTEXT),
            tags=value.get("tags", []),
        )

    def _evolve(self, note: Note) -> Play:
        """Changes the neighbours as the model says, and returns the note with links and tags.

        What was done before something was wrong stays done, as in the library.
        """
        found = yield from self.episode.search(note.content, self._method.neighbours)
        neighbours = [entry.memory_id for entry in found]
        lines = [
            _json({"id": each, **_fields(self.notes[each]), "tags": self.notes[each].tags})
            for each in neighbours
        ]
        parts = (f"New note:\n{_json(_fields(note))}", f"Its {len(lines)} nearest notes:", *lines)
        reply = yield from self.episode.ask("evolve", _EVOLVE[self._style], parts)
        try:
            value = self._read(reply)
            if not isinstance(value, Mapping):
                raise ReplyError("What should evolve is no JSON object.")
            for action in _listed(value, "actions") if _needed(value, "should_evolve") else ():
                if action == "strengthen":
                    links = _listed(value, "suggested_connections")
                    tags = _needed(value, "tags_to_update")
                    note = dataclasses.replace(note, links=(*note.links, *links), tags=tags)
                elif action == "update_neighbor":
                    contexts = _needed(value, "new_context_neighborhood")
                    tags = _listed(value, "new_tags_neighborhood")
                    for place, memory_id in enumerate(neighbours[: len(tags)]):
                        yield from self._update(memory_id, place, contexts, tags)
        except ReplyError as error:
            self.episode.malformed(str(error))
        return note

    def _update(self, memory_id: str, place: int, contexts: Any, tags: Sequence[Any]) -> Play:
        """Gives a neighbour its new context, if there is one for it, and tags."""
        old = self.notes[memory_id]
        if not isinstance(contexts, (list, str)):
            raise ReplyError("new_context_neighborhood is no list.")
        context = contexts[place] if place < len(contexts) else old.context
        new = dataclasses.replace(old, context=context, tags=tags[place])
        try:
            text = new.text
        except ReplyError as error:
            self.episode.malformed(f"A neighbour stays as it was: {error}")
            return
        result = yield from self.episode.update(memory_id, text)
        if result.ok:
            self.notes[memory_id] = new

    def _read(self, reply: str) -> Any:
        """The JSON of a reply. Raises ReplyError."""
        try:
            value = json.loads(reply) if self._method.strict else {}
        except (ValueError, RecursionError) as error:
            raise ReplyError(f"The reply is no JSON: {error}.") from error
        # This also refuses what is nested too deeply to be written again.
        return read_object(reply) if isinstance(value, Mapping) else value

    def _is_note(self, link: Any) -> bool:
        return isinstance(link, str) and link in self.notes


def _fields(note: Note) -> dict[str, Any]:
    """What the model sees of a note; of a new one not the tags, which it may replace."""
    return {"content": note.content, "context": note.context, "keywords": note.keywords}


def _words(name: str, value: Any) -> str | None:
    """A list of words, or a string with the JSON of one, as text; None where it is empty.

    Raises:
      ReplyError: it is something else.
    """
    if not value:
        return None
    try:
        words = value if isinstance(value, list) else json.loads(value)
        return ", ".join(words) if words else None
    except (TypeError, ValueError, RecursionError) as error:
        raise ReplyError(f"its {name} are no list of words.") from error


def _needed(value: Mapping[str, Any], key: str) -> Any:
    """Raises ReplyError where the key is missing."""
    if key not in value:
        raise ReplyError(f"The reply has no {key}.")
    return value[key]


def _listed(value: Mapping[str, Any], key: str) -> Sequence[Any]:
    """The list under a key; of a string, its characters. Raises ReplyError where it is neither."""
    listed = _needed(value, key)
    if not isinstance(listed, (list, str)):
        raise ReplyError(f"{key} is no list.")
    return listed


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
