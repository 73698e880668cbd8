"""Mem0 (arXiv 2504.19413): facts are extracted from a message, then the store is updated by them.

The pipeline of mem0ai 1.0.11, its order and its leniency: a call that extracts facts, a search for
each of them, a call that decides between ADD, UPDATE, DELETE and NONE. What differs:

- The instructions are in our own words, without the day's date, and short in the compact style;
  they stand in the system turn of both calls. The library has those of the second in a user turn.
- Replies are not held to JSON while they are sampled. What is no JSON counts as in the library.
- A prompt beyond T_max is cut, and the store has a capacity; the library knows neither limit.
- Memories are shown below messages of Stages 2 and 3; the library leaves the answer to its user.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from agemem_jax.methods.memory_system import MemorySystem, Pipeline, SystemEpisode
from agemem_jax.rollout.requests import Generate
from agemem_jax.rollout.tool_use import Play

_EXTRACT = {
    "full": """\
You keep notes about what people tell you. Read the conversation and pick out the facts in the \
user's messages that are worth remembering later. Take nothing from messages of the assistant or \
the system.

Worth remembering are: what somebody likes, dislikes or prefers; names, relations, places, dates \
and other personal details; plans and intentions; habits in eating, travelling, leisure and \
services; health and fitness; work and career; and anything else particular that is told, such as \
favourite books, films and brands.

Each fact is one short statement that can be understood by itself, in the language of the user. \
Greetings and what everybody knows are no facts.

Reply in JSON only: an object whose key "facts" holds a list of strings, empty when there is \
nothing to keep.

Input:
user: Good morning!
{"facts": []}

Input:
user: Rivers flow into the sea.
{"facts": []}

Input:
user: I met Dana at noon to talk about the new budget.
{"facts": ["Met Dana at noon to talk about the new budget"]}

Input:
user: I am Priya, and I teach physics.
{"facts": ["Name is Priya", "Teaches physics"]}

These examples are no part of any conversation: never return their facts.""",
    "compact": """\
Pick out the facts of the message that are worth keeping, each complete in itself.
Reply in JSON only: {"facts": ["..."]}, or {"facts": []}.
Example: user: I am Ana and live in Rome.
{"facts": ["Name is Ana", "Ana lives in Rome"]}""",
}

_UPDATE = {
    "full": """\
You manage a memory, a list of texts with ids. You are given the memory and new facts. Compare \
each fact with the memory and choose one of four events for each text:

- ADD: the fact tells something that the memory lacks. It gets an id that is not in use.
- UPDATE: the fact changes a text, or says more of the same. The text gets the new content and \
keeps its id; "old_memory" is what it was before. Where both say the same in other words, the one \
that says more is kept.
- DELETE: the fact contradicts a text, or asks that it be forgotten. Its id is that of the text.
- NONE: the text stays as it is, since no fact concerns it or all is known already.

Use only ids of the memory, except for what you add. When the memory is empty, add the facts.

Reply in JSON only, in this form:
{"memory": [{"id": "...", "text": "...", "event": "...", "old_memory": "..."}]}
where "old_memory" is needed for UPDATE alone.

Memory:
{"id": "0", "text": "Teaches physics"}
{"id": "1", "text": "Likes tea"}
{"id": "2", "text": "Owns a bicycle"}
New facts: ["Teaches physics and chemistry", "Sold the bicycle", "Has a sister", "Loves tea"]
{"memory": [{"id": "0", "text": "Teaches physics and chemistry", "event": "UPDATE", \
"old_memory": "Teaches physics"}, {"id": "1", "text": "Likes tea", "event": "NONE"}, \
{"id": "2", "text": "Owns a bicycle", "event": "DELETE"}, \
{"id": "3", "text": "Has a sister", "event": "ADD"}]}

This example is no part of any memory: never return its texts.""",
    "compact": """\
Bring a memory up to date with new facts. Reply in JSON only:
{"memory": [{"id": "0", "text": "...", "event": "..."}]}
event is ADD (new, another id), UPDATE (changed, same id), DELETE (contradicted) or NONE.
Example: Memory:
{"id": "0", "text": "Ana lives in Rome"}
New facts: ["Ana lives in Oslo"]
{"memory": [{"id": "0", "text": "Ana lives in Oslo", "event": "UPDATE"}]}""",
}

_SAID, _NEW = "Input:\nuser: ", "New facts: "  # in front of what a prompt is about


@dataclasses.dataclass(frozen=True)
class Mem0(MemorySystem):
    """Mem0 without a graph.

    Attributes:
      candidates: how many entries are searched for each fact; the library's number.
    """

    title: ClassVar[str] = "Mem0"

    candidates: int = 5

    def __post_init__(self):
        super().__post_init__()
        if self.candidates < 1:
            raise ValueError(f"candidates is {self.candidates}; it must be at least 1.")

    def instructions(self, style: str) -> tuple[str, ...]:
        return (_EXTRACT[style], _UPDATE[style])

    def begin(self, episode: SystemEpisode) -> "FactPipeline":
        return FactPipeline(episode, self.candidates)

    def demonstrate(self, request: Generate, agent: Any) -> Any:
        text = request.context.messages[-1].text
        if request.purpose == "extract":
            return {"facts": agent.facts_in(text.removeprefix(_SAID))}
        if request.purpose != "update":
            return None
        *lines, facts = text.splitlines()
        memory = {each["text"]: each["id"] for each in map(json.loads, lines[1:])}
        actions = []
        for fact in json.loads(facts.removeprefix(_NEW)):
            if fact in memory:
                continue
            stale = agent.replaced_by(fact)
            event = agent.change() if stale in memory else "ADD"
            number = memory[stale] if event == "UPDATE" else str(len(memory) + len(actions))
            if event != "NONE":
                actions.append({"id": number, "text": fact, "event": event})
        return {"memory": actions}


class FactPipeline(Pipeline):
    """Mem0 in one episode. All that it knows is in the store."""

    def __init__(self, episode: SystemEpisode, candidates: int):
        super().__init__(episode)
        self._style = episode.config.prompt_style
        self._candidates = candidates

    def remember(self, message: str) -> Play:
        facts = yield from self._extract(message)
        entries: dict[str, str] = {}
        for fact in facts:
            found = yield from self.episode.search(fact, self._candidates, self.metadata)
            entries |= {entry.memory_id: entry.content for entry in found}
        if not facts:
            return
        # The model sees small numbers, which it copies more surely than ids.
        ids = {str(number): memory_id for number, memory_id in enumerate(entries)}
        for action in (yield from self._decide(list(entries.values()), facts)):
            yield from self._carry_out(action, ids)

    def _extract(self, message: str) -> Play:
        """The facts of a message; none where the reply cannot be read."""
        parts = (f"{_SAID}{message}",)
        reply = yield from self.episode.ask("extract", _EXTRACT[self._style], parts)
        try:
            return read_facts(reply)
        except ReplyError as error:
            self.episode.malformed(str(error))
            return []

    def _decide(self, memory: list[str], facts: list[str]) -> Play:
        """What the model wants done, each still to be checked; nothing where it is unreadable."""
        lines = [_json({"id": str(number), "text": text}) for number, text in enumerate(memory)]
        parts = ("Memory:", *lines) if lines else ("Memory: empty",)
        ending = f"{_NEW}{_json(facts)}"
        reply = yield from self.episode.ask("update", _UPDATE[self._style], parts, ending)
        try:
            return read_actions(reply)
        except ReplyError as error:
            self.episode.malformed(str(error))
            return []

    def _carry_out(self, action: Any, ids: Mapping[str, str]) -> Play:
        """Does one thing to the store, if it is something that can be done.

        Like the library, it does nothing without a text, even where only the id is needed.
        """
        if not isinstance(action, Mapping):
            self.episode.malformed("An element of memory is no JSON object.")
            return
        text, event, number = (action.get(name) for name in ("text", "event", "id"))
        memory_id = ids.get(number) if isinstance(number, str) else None
        if not text:
            return
        if event == "ADD":
            yield from self.episode.add(text, self.metadata)
        elif event == "UPDATE":
            yield from self.episode.update(memory_id, text)
        elif event == "DELETE":
            yield from self.episode.delete(memory_id)
        elif event != "NONE":
            self.episode.malformed("An event is none of ADD, UPDATE, DELETE and NONE.")


class ReplyError(ValueError):
    """A reply that cannot be read, in one sentence."""


def read_facts(reply: str) -> list[str]:
    """The facts in a reply of the first call.

    A fact may be an object with the key "fact" or "text", as small models write it; what is
    neither text nor object becomes text. An empty reply has no facts.

    Raises:
      ReplyError: there is no JSON object with facts.
    """
    if not _bare(reply):
        return []
    value = read_object(reply)
    if "facts" not in value:
        raise ReplyError("The reply has no key facts.")
    if value["facts"] and not isinstance(value["facts"], Iterable):
        raise ReplyError("facts is no list.")
    facts = []
    for each in value["facts"] or ():
        fact = each
        if isinstance(each, Mapping):
            fact = each.get("fact") or each.get("text")
        elif not isinstance(each, str):
            fact = str(each)
        if fact and not isinstance(fact, str):
            raise ReplyError("A fact is no text.")
        if fact:
            facts.append(fact)
    return facts


def read_actions(reply: str) -> list[Any]:
    """The elements of "memory" in a reply of the second call, whatever they are.

    Raises:
      ReplyError: there is no JSON object, or its "memory" is no list.
    """
    if not reply.strip():
        return []
    actions = read_object(reply).get("memory", [])
    if not isinstance(actions, list):
        raise ReplyError("memory is no list.")
    return actions


def read_object(reply: str) -> Mapping[str, Any]:
    """The JSON object of a reply. Raises ReplyError."""
    value = _read(reply)
    if not isinstance(value, Mapping):
        raise ReplyError("The reply is no JSON object.")
    return value


_MAX_DEPTH = 32
_LEAVES = (str, int, float, type(None))

_FENCED = re.compile(r"```[a-zA-Z0-9]*\n(?P<inside>.*)\n```", re.DOTALL)
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_FENCE_ANYWHERE = re.compile(r"```(?:json)?\s*(?P<inside>.*?)\s*```", re.DOTALL)


def _bare(reply: str) -> str:
    """The reply without the code fence that it stands in, and without thoughts."""
    fenced = _FENCED.fullmatch(reply.strip())
    return _THOUGHT.sub("", fenced["inside"] if fenced else reply).strip()


def _inside(reply: str) -> str:
    """What is fenced anywhere in the reply, or goes from the first brace to the last."""
    fenced = _FENCE_ANYWHERE.search(reply)
    if fenced:
        return fenced["inside"]
    first, last = reply.find("{"), reply.rfind("}")
    return reply[first : last + 1] if -1 < first < last else reply


def _read(reply: str) -> Any:
    """The JSON value of a reply, with text around it if need be. Raises ReplyError."""
    try:
        try:
            value = json.loads(_bare(reply), strict=False)
        except json.JSONDecodeError:
            value = json.loads(_inside(reply), strict=False)
        return _checked(value)
    except (ValueError, RecursionError) as error:  # an integer of absurd length; absurd depth
        raise ReplyError(f"The reply is no JSON: {_first_line(error)}.") from error


def _checked(value: Any) -> Any:
    """The value, if everything that looks into it can. Raises RecursionError."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        inside = [each.values() if isinstance(each, dict) else each for each in level]
        level = [x for each in inside if not isinstance(each, _LEAVES) for x in each]
        if not level:
            return value
    raise RecursionError(f"It is nested more than {_MAX_DEPTH} levels deep")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
