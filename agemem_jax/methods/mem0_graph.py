"""Mem0 with a graph (arXiv 2504.19413, section 2.2): relations between entities beside the facts.

The graph of mem0ai 1.0.11 on Kuzu: a call that names the entities of a message, one that relates
them, a search for relations of similar entities, a call that says which of those are contradicted.
What differs, beside what `mem0` says:

- A relation is an entry of the store ("ana -- lives_in -- rome", marked by its metadata), so that
  it counts against the capacity and is measured like a fact; names of entities are kept beside it.
- The library's model answers with calls of tools; here it writes their arguments as JSON. A reply
  without any brace counts as no call; JSON that cannot be read ends the message's graph, as
  arguments that cannot be read do in the library.
- Facts come before relations; in the library two threads do both at once.
"""

import collections
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from agemem_jax.methods.mem0 import FactPipeline, Mem0, ReplyError, read_object
from agemem_jax.methods.memory_system import SystemEpisode
from agemem_jax.protocol.events import RetrievedEntry
from agemem_jax.rollout.requests import Generate
from agemem_jax.rollout.tool_use import Play

_USER = "user"  # how the library calls its user, and what stands for "I" and "me"

_ENTITIES = {
    "full": f"""\
You find the entities of a text and their types: people, places, organisations, things, dates and \
whatever else is named. Where the text says I, me or my, the entity is {_USER}. If the text is a \
question, do not answer it; find its entities.

Reply in JSON only: {{"entities": [{{"entity": "...", "entity_type": "..."}}]}}""",
    "compact": f"""\
List the entities of the text. I, me and my are {_USER}. Answer no question.
Reply in JSON only: {{"entities": [{{"entity": "...", "entity_type": "..."}}]}}
Example: Text: Ana lives in Rome.
{{"entities": [{{"entity": "Ana", "entity_type": "person"}}, \
{{"entity": "Rome", "entity_type": "city"}}]}}""",
}
_RELATIONS = {
    "full": f"""\
You turn a text into a graph of knowledge. You are given the text and its entities. Relate the \
entities to each other as the text says, and take nothing that it does not say openly.

- Where the text says I, me or my, the source is {_USER}.
- A relation is general and holds at any time: "teacher", not "became_teacher".
- An entity has the same name wherever it appears.

Reply in JSON only: \
{{"entities": [{{"source": "...", "relationship": "...", "destination": "..."}}]}}""",
    "compact": f"""\
Relate the entities as the text says. I, me and my are {_USER}.
Reply in JSON only:
{{"entities": [{{"source": "...", "relationship": "...", "destination": "..."}}]}}
Example: Text: Ana lives in Rome.
{{"entities": [{{"source": "Ana", "relationship": "lives_in", "destination": "Rome"}}]}}""",
}
_DELETIONS = {
    "full": f"""\
You keep a graph of relations true, each written source -- relationship -- destination. You are \
given a new text and the relations that may concern it. Name those that the text makes untrue: \
the text is newer or more exact, or says the contrary. Where it says I, me or my, the entity is \
{_USER}.

Do not name a relation only because the text has another destination for the same relationship, \
if both can hold: that Ana likes rice, too, says nothing against ana -- likes -- bread. When in \
doubt, keep it.

Reply in JSON only, with the relations exactly as they are written: \
{{"relations": [{{"source": "...", "relationship": "...", "destination": "..."}}]}}, where the \
list is empty when all stay true.""",
    "compact": """\
Name the relations that the new text makes untrue, not those that may hold beside it.
Reply in JSON only:
{"relations": [{"source": "...", "relationship": "...", "destination": "..."}]}, or
{"relations": []}.""",
}

_FACT, _RELATION = {"kind": "fact"}, {"kind": "relation"}
_AT_MOST = 100  # relations of one entity that are looked at


@dataclasses.dataclass(frozen=True)
class Relation:
    """An edge of the graph, by the names of its nodes."""

    source: str
    relationship: str
    destination: str

    @property
    def text(self) -> str:
        """As prompts and the store have it."""
        return f"{self.source} -- {self.relationship} -- {self.destination}"


@dataclasses.dataclass(frozen=True)
class Mem0Graph(Mem0):
    """Mem0 with a graph.

    Attributes:
      threshold: cosine from which two names are taken for one entity; the library's default.
    """

    title: ClassVar[str] = "Mem0-graph"

    threshold: float = 0.7

    def __post_init__(self):
        super().__post_init__()
        if not -1.0 <= self.threshold <= 1.0:
            raise ValueError(f"threshold is {self.threshold}; it must lie in [-1, 1].")

    def instructions(self, style: str) -> tuple[str, ...]:
        graph = (_ENTITIES[style], _RELATIONS[style], _DELETIONS[style])
        return (*super().instructions(style), *graph)

    def begin(self, episode: SystemEpisode) -> "GraphPipeline":
        return GraphPipeline(episode, self.candidates, self.threshold)

    def demonstrate(self, request: Generate, agent: Any) -> Any:
        first, *lines = request.context.messages[-1].text.splitlines()
        text = first.partition(": ")[2]
        related = [r for r in map(agent.relation_of, agent.facts_in(text)) if r is not None]
        match request.purpose:
            case "entities":
                names = list(dict.fromkeys(name for r in related for name in (r[0], r[2])))
                return {"entities": [{"entity": n, "entity_type": "name"} for n in names]}
            case "relations":
                return {"entities": [dataclasses.asdict(Relation(*names)) for names in related]}
            case "deletions":
                told = {Relation(*map(_normal, names)) for names in related}
                known = [Relation(*line.split(" -- ")) for line in lines if " -- " in line]
                changed = {(r.source, r.relationship) for r in told}
                gone = [r for r in known if (r.source, r.relationship) in changed and r not in told]
                return {"relations": list(map(dataclasses.asdict, gone))}
        return super().demonstrate(request, agent)


class GraphPipeline(FactPipeline):
    """Mem0 with a graph in one episode.

    Attributes:
      nodes: names of the entities, in the order in which they came; none is ever removed.
      relations: the memory id of each, in the order in which they came.
    """

    metadata = _FACT

    def __init__(self, episode: SystemEpisode, candidates: int, threshold: float):
        super().__init__(episode, candidates)
        self._threshold = threshold
        self.nodes: dict[str, None] = {}
        self.relations: dict[Relation, str] = {}

    def remember(self, message: str) -> Play:
        yield from super().remember(message)
        try:
            yield from self._relate(message)
        except ReplyError as error:
            self.episode.malformed(str(error))

    def recall(self, query: str) -> Play:
        facts = yield from super().recall(query)
        try:
            entities = yield from self._entities(query)
        except ReplyError as error:
            self.episode.malformed(str(error))
            entities = []
        found = yield from self._near(entities)
        best = rank(query, [relation for relation, _ in found])[: self.episode.config.top_k]
        shown = [
            RetrievedEntry(self.relations[relation], relation.text, score)
            for relation, score in (found[place] for place in best)
        ]
        self.episode.found(query, shown)
        lines = [f"- {entry.content}" for entry in shown]
        return "\n".join((*filter(None, (facts,)), *(["Relations:", *lines] if lines else ())))

    def _relate(self, message: str) -> Play:
        """One message into the graph: what it contradicts goes, what it says is added."""
        entities = yield from self._entities(message)
        added = yield from self._relations(entities, message)
        found = yield from self._near(entities)
        near = [relation for relation, _ in found]
        for relation in (yield from self._contradicted(near, message)):
            memory_id = self.relations.pop(relation, None)
            if memory_id is not None:  # the library deletes what matches, be it nothing
                yield from self.episode.delete(memory_id)
        for relation in added:
            yield from self._add(relation)

    def _entities(self, text: str) -> Play:
        """Names of the entities of a text; what was read before an element was wrong counts."""
        value = yield from self._ask("entities", _ENTITIES, (f"Text: {text}",))
        names: dict[Any, Any] = {}
        elements = value.get("entities", [])
        for each in elements if isinstance(elements, list) else ():
            if not isinstance(each, Mapping) or not {"entity", "entity_type"} <= each.keys():
                self.episode.malformed("An element of entities lacks a key.")
                break
            if isinstance(each["entity"], (list, Mapping)):
                self.episode.malformed("An entity is no text.")
                break
            names[each["entity"]] = each["entity_type"]
        if not all(isinstance(text, str) for pair in names.items() for text in pair):
            raise ReplyError("An entity or its type is no text.")
        return list(dict.fromkeys(map(_normal, names)))

    def _relations(self, entities: Sequence[str], text: str) -> Play:
        parts = (f"Text: {text}",)
        ending = f"Entities: {json.dumps(entities, ensure_ascii=False)}"
        value = yield from self._ask("relations", _RELATIONS, parts, ending)
        return read_relations(value.get("entities", []))

    def _contradicted(self, found: Sequence[Relation], text: str) -> Play:
        """Which relations the model wants deleted; it is asked even where none was found."""
        lines = [relation.text for relation in found]
        parts = (f"New text: {text}", "Relations:", *(lines or ["none"]))
        value = yield from self._ask("deletions", _DELETIONS, parts)
        return read_relations(value.get("relations", []))

    def _ask(
        self, purpose: str, instructions: Mapping[str, str], parts: Sequence[str], ending: str = ""
    ) -> Play:
        """The object that the model replied with; without any keys where it is none."""
        reply = yield from self.episode.ask(purpose, instructions[self._style], parts, ending)
        try:
            return read_object(reply)
        except ReplyError as error:
            if "{" in reply:
                raise
            self.episode.malformed(str(error))
            return {}

    def _near(self, entities: Iterable[str]) -> Play:
        """Relations of nodes similar to the entities, each with the node's cosine.

        They come as often as they are found: entity by entity, best first.
        """
        found: list[tuple[Relation, float]] = []
        for entity in entities:
            nodes = list(self.nodes)
            scores = yield from self.episode.similarities(nodes, entity)
            near = {n: s for n, s in zip(nodes, scores, strict=True) if s >= self._threshold}
            at = [(r, near[r.source]) for r in self.relations if r.source in near]
            at += [(r, near[r.destination]) for r in self.relations if r.destination in near]
            found += sorted(at, key=lambda scored: -scored[1])[:_AT_MOST]
        return found

    def _add(self, relation: Relation) -> Play:
        """Adds an edge, between nodes that are there already where names are near enough."""
        source = yield from self._node(relation.source)
        destination = yield from self._node(relation.destination)
        relation = Relation(source, relation.relationship, destination)
        self.nodes |= dict.fromkeys((source, destination))
        if relation not in self.relations:
            result = yield from self.episode.add(relation.text, _RELATION)
            if result.ok:
                self.relations[relation] = result.memory_id

    def _node(self, name: str) -> Play:
        """The node nearest to the name, or the name itself where none is near enough."""
        nodes = list(self.nodes)
        scores = yield from self.episode.similarities(nodes, name)
        best = max(range(len(nodes)), key=scores.__getitem__, default=None)
        return name if best is None or scores[best] < self._threshold else nodes[best]


def read_relations(elements: Any) -> list[Relation]:
    """The relations among elements of a reply, in lower case without blanks.

    As in the library, elements that lack a key are left out, as are the parts of what is no list.

    Raises:
      ReplyError: there is nothing to go through, or a name is no text.
    """
    if isinstance(elements, (str, Mapping)):
        return []
    if not isinstance(elements, list):
        raise ReplyError("The relations are no list.")
    keys = [field.name for field in dataclasses.fields(Relation)]
    relations = []
    for each in elements:
        if isinstance(each, Mapping) and all(key in each for key in keys):
            names = [each[key] for key in keys]
            if not all(isinstance(name, str) for name in names):
                raise ReplyError("A name in a relation is no text.")
            relations.append(Relation(*map(_normal, names)))
    return relations


def rank(query: str, relations: Sequence[Relation]) -> list[int]:
    """Places of the relations, best first, by BM25 of their three words to those of the query.

    It is Okapi's with a k1 of 1.5, and a floor for words that most relations hold. Words are
    compared as they are written, as in the library: a name in capitals matches no node. A
    document here has always three words, so that lengths cancel.
    """
    if not relations:
        return []
    counts = [collections.Counter(dataclasses.astuple(relation)) for relation in relations]
    holding = collections.Counter(word for count in counts for word in count)
    rarity = {
        word: math.log(len(counts) - held + 0.5) - math.log(held + 0.5)
        for word, held in holding.items()
    }
    least = 0.25 * sum(rarity.values()) / len(rarity)  # for words that most relations hold
    scores = np.zeros(len(counts))
    for word in query.split(" "):
        weight = rarity.get(word, 0.0)
        held = np.array([count[word] for count in counts])
        scores += (least if weight < 0 else weight) * held * 2.5 / (held + 1.5)
    return np.argsort(scores)[::-1].tolist()


def _normal(name: str) -> str:
    return name.lower().replace(" ", "_")
