"""Embedded multi-hop questions in HotpotQA's shape, made rather than downloaded.

Two facts of a small invented world are said in casual conversation (Stage 1), one of
them may change later, near but useless facts distract (Stage 2), and the question
needs both facts (Stage 3). `generate` gives the task alone; `generate_episode` adds the
structure behind it, from which a demonstrating agent can be scripted.
"""

import dataclasses
import functools
import numbers
from typing import ClassVar

import numpy as np

from agemem_jax.tasks.multihop_relations import BRIDGES, COMPARISONS, NOISE, RELATIONS
from agemem_jax.tasks.names import SPLITS, NameSampler, year
from agemem_jax.tasks.task import Question, Task

_MOST_TASKS = 2**31 - 1  # Grain shuffles so many
_MOST_TOLD = 40  # in one history: a held-out split has names for so many


@dataclasses.dataclass(frozen=True)
class MultihopConfig:
    """What the generated episodes look like.

    Attributes:
      min_messages, max_messages: bounds on the number of Stage 1 messages. A question
        needs two, and a third when a fact changes; the rest is small talk.
      num_distractors: Stage 2 messages.
      change_probability: chance that one of the two facts changes in a later message.
      comparison_fraction: share of comparison questions; the others are bridges.
      noise_probability: chance, for every message with a fact, that small talk is added.
      tasks_per_history: tasks that share one long history: the messages of all of them, shuffled
        into each other without changing the order of any. Each asks its own question about it.
        It may need more of `episode.max_messages`, `messages_per_session` and `memory.entries`.
    """

    min_messages: int = 2
    max_messages: int = 5
    num_distractors: int = 2
    change_probability: float = 0.5
    comparison_fraction: float = 0.3
    noise_probability: float = 0.25
    tasks_per_history: int = 1

    def __post_init__(self):
        for name in ("min_messages", "max_messages", "num_distractors", "tasks_per_history"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or isinstance(value, bool):
                raise ValueError(f"{name} must be an integer, not {value!r}.")
        for name in ("change_probability", "comparison_fraction", "noise_probability"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], not {value!r}.")
        needed = 3 if self.change_probability > 0 else 2
        if self.max_messages < needed:
            raise ValueError(
                f"max_messages must be at least {needed} when "
                f"change_probability is {self.change_probability}, not {self.max_messages}."
            )
        if not 0 <= self.min_messages <= self.max_messages:
            raise ValueError(
                "min_messages must lie between 0 and max_messages "
                f"({self.max_messages}), not {self.min_messages}."
            )
        if not 1 <= self.tasks_per_history <= _MOST_TOLD:
            raise ValueError(
                f"tasks_per_history must lie in [1, {_MOST_TOLD}], not {self.tasks_per_history}."
            )
        if not 0 <= self.num_distractors <= 50:
            raise ValueError(f"num_distractors must lie in [0, 50], not {self.num_distractors}.")


@dataclasses.dataclass(frozen=True)
class Fact:
    """`subject` stands in `relation` (a key of RELATIONS) to `object`."""

    relation: str
    subject: str
    object: str


@dataclasses.dataclass(frozen=True)
class EpisodeMessage:
    """A message with what it means.

    Attributes:
      text: as the agent reads it.
      kind: "fact", "change" or "noise".
      fact: what holds once the message was said; None for noise.
      previous_object: for a change, the object that no longer holds.
    """

    text: str
    kind: str
    fact: Fact | None = None
    previous_object: str | None = None


@dataclasses.dataclass(frozen=True)
class MultihopEpisode:
    """A task and the structure it was written from.

    Attributes:
      task: what the agent plays.
      messages: the Stage 1 messages, in the order of `task.messages`.
      distractors: the Stage 2 messages, in the order of `task.distractors`.
      facts: the two facts that hold when the query is asked, in hop order.
      chain: the canonical sentences of `facts`: the reasoning that gives the answer.
      query_entities: the names in the query.
    """

    task: Task
    messages: tuple[EpisodeMessage, ...]
    distractors: tuple[EpisodeMessage, ...]
    facts: tuple[Fact, Fact]
    chain: tuple[str, ...]
    query_entities: tuple[str, ...]


def sentence(fact: Fact) -> str:
    """The canonical sentence of a fact, as supporting and stale facts state it."""
    return RELATIONS[fact.relation].canonical.format(s=fact.subject, o=fact.object)


def generate(split: str, index: int, seed: int, config: MultihopConfig) -> Task:
    """The task at `index`; see `generate_episode`."""
    return generate_episode(split, index, seed, config).task


def generate_episode(split: str, index: int, seed: int, config: MultihopConfig) -> MultihopEpisode:
    """The episode at `index` of the endless sequence that (`split`, `seed`) names.

    Depends on its arguments alone, so any process can make any part of a data set.
    Splits share no name. Raises ValueError for an unknown split or a negative index or seed.
    """
    if split not in SPLITS:
        raise ValueError(f"The multihop split must be one of {', '.join(SPLITS)}, not {split!r}.")
    if index < 0 or seed < 0:
        raise ValueError(
            f"The multihop index and seed must not be negative, got index {index}, seed {seed}."
        )
    if config.tasks_per_history == 1:
        rng = np.random.default_rng([SPLITS.index(split), int(index), int(seed)])
        task_id = f"multihop-{split}-{seed}-{index}"
        return _episode(rng, NameSampler(rng, split), task_id, config)
    block, place = divmod(int(index), config.tasks_per_history)
    return _history(split, block, int(seed), config)[place]


@functools.lru_cache(maxsize=8)
def _history(
    split: str, block: int, seed: int, config: MultihopConfig
) -> tuple[MultihopEpisode, ...]:
    """The episodes of one long history: no name stands in two of them."""
    count = config.tasks_per_history
    rng = np.random.default_rng([SPLITS.index(split), block, seed, count])
    sampler = NameSampler(rng, split)
    ids = [f"multihop-{split}-{seed}-{block}of{count}-{place}" for place in range(count)]
    episodes = [_episode(rng, sampler, task_id, config) for task_id in ids]
    turns = np.repeat(np.arange(count), [len(episode.messages) for episode in episodes])
    left = [list(episode.messages) for episode in episodes]
    messages = tuple(left[turn].pop(0) for turn in rng.permutation(turns))
    texts = tuple(message.text for message in messages)
    return tuple(
        dataclasses.replace(
            each, task=dataclasses.replace(each.task, messages=texts), messages=messages
        )
        for each in episodes
    )


def _episode(
    rng: np.random.Generator, sampler: NameSampler, task_id: str, config: MultihopConfig
) -> MultihopEpisode:
    if rng.random() < config.comparison_fraction:
        kind = "comparison"
        query, answer, query_entities, facts = _comparison(rng, sampler)
    else:
        kind = "bridge"
        query, answer, query_entities, facts = _bridge(rng, sampler)

    messages, stale_facts = _conversation(rng, sampler, facts, config)
    distractors = tuple(
        _distractor(rng, sampler, facts[i % len(facts)], answer)
        for i in range(config.num_distractors)
    )
    chain = tuple(sentence(fact) for fact in facts)
    task = Task(
        task_id=task_id,
        goal=Question(query, answer),
        messages=tuple(message.text for message in messages),
        distractors=tuple(message.text for message in distractors),
        supporting_facts=chain,
        stale_facts=tuple(sentence(fact) for fact in stale_facts),
        category=kind,
        data_set="multihop",
    )
    return MultihopEpisode(task, messages, distractors, facts, chain, query_entities)


@dataclasses.dataclass(frozen=True)
class MultihopSource:
    """The first `size` tasks of a split, with random access (a Grain source)."""

    split: str
    size: int
    seed: int = 0
    config: MultihopConfig = MultihopConfig()

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"MultihopSource.size must be at least 1, not {self.size}.")
        if self.split not in SPLITS:
            raise ValueError(
                f"MultihopSource.split must be one of {', '.join(SPLITS)}, not {self.split!r}."
            )

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Task:
        return self.episode(index).task

    def episode(self, index: int) -> MultihopEpisode:
        """The task at `index` with its structure."""
        if not 0 <= index < self.size:
            raise IndexError(f"Task {index} is outside a source of {self.size} tasks.")
        return generate_episode(self.split, int(index), self.seed, self.config)


@dataclasses.dataclass(frozen=True)
class MultihopTasks(MultihopConfig):
    """The source "multihop".

    Attributes:
      size: tasks in each split.
      seed: that they are made from.
    """

    splits: ClassVar[tuple[str, ...]] = SPLITS

    size: int = 100_000
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.size <= _MOST_TASKS:
            raise ValueError(f"size is {self.size}; it must be from 1 to {_MOST_TASKS}.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or more.")

    def __call__(self, split: str) -> MultihopSource:
        return MultihopSource(split, self.size, self.seed, self)


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def _bridge(rng, sampler):
    first, second, question = _pick(rng, BRIDGES)
    start = sampler.fresh(RELATIONS[first].subject)
    middle = sampler.fresh(RELATIONS[first].object)
    kind = RELATIONS[second].object
    end = year(rng) if kind == "year" else sampler.fresh(kind)
    facts = (Fact(first, start, middle), Fact(second, middle, end))
    return question.format(x=start), end, (start,), facts


def _comparison(rng, sampler):
    relation, question = _pick(rng, COMPARISONS)
    entities = tuple(sampler.fresh(RELATIONS[relation].subject) for _ in range(2))
    first_year = year(rng)
    years = (first_year, year(rng, exclude=frozenset((first_year,))))
    facts = tuple(Fact(relation, *pair) for pair in zip(entities, years, strict=True))
    answer = min(facts, key=lambda fact: int(fact.object)).subject
    return question.format(a=entities[0], b=entities[1]), answer, entities, facts


def _conversation(rng, sampler, facts, config):
    """Stage 1 messages and the facts that a later one made untrue."""
    said = list(facts)  # what the first mention of each fact states
    stale: tuple[Fact, ...] = ()
    changed = None
    if rng.random() < config.change_probability:
        changed = int(rng.integers(len(facts)))
        now = facts[changed]
        kind = RELATIONS[now.relation].object
        if kind == "year":
            # Neither the new year nor that of the other fact: the old comparison, too,
            # has an answer.
            previous = year(rng, exclude=frozenset(fact.object for fact in facts))
        else:
            previous = sampler.fresh(kind)
        said[changed] = dataclasses.replace(now, object=previous)
        stale = (said[changed],)

    order = [int(i) for i in rng.permutation(len(said))]
    messages = [_fact_message(rng, said[i]) for i in order]
    if changed is not None:
        now, previous = facts[changed], said[changed].object
        text = _pick(rng, RELATIONS[now.relation].change)
        text = text.format(s=now.subject, o=now.object, p=previous)
        place = int(rng.integers(order.index(changed) + 1, len(messages) + 1))
        messages.insert(place, EpisodeMessage(text, "change", now, previous))

    num_noise = sum(rng.random() < config.noise_probability for _ in messages)
    total = min(max(len(messages) + num_noise, config.min_messages), config.max_messages)
    while len(messages) < total:
        place = int(rng.integers(len(messages) + 1))
        messages.insert(place, EpisodeMessage(_pick(rng, NOISE), "noise"))
    return tuple(messages), stale


def _fact_message(rng, fact: Fact) -> EpisodeMessage:
    text = _pick(rng, RELATIONS[fact.relation].casual).format(s=fact.subject, o=fact.object)
    return EpisodeMessage(text, "fact", fact)


def _distractor(rng, sampler, fact: Fact, answer: str) -> EpisodeMessage:
    """The relation of `fact` about a subject of a near name; never says `answer`."""
    relation = RELATIONS[fact.relation]
    subject = sampler.near(relation.subject, fact.subject)
    if relation.object == "year":
        target = year(rng, exclude=frozenset((answer,)))
    else:
        target = sampler.near(relation.object, fact.object)
    return _fact_message(rng, Fact(fact.relation, subject, target))
