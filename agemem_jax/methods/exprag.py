"""ExpRAG: past trajectories, nearest to the task first, stand in front of the goal as examples.

"Retrieval-Augmented LLM Agents: Learning to Learn from Experience" (arXiv 2603.18272), which
also trains agents with them in the prompt; the same name and idea in "Evo-Memory"
(arXiv 2511.20857).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from agemem_jax.memory.embedders import Embedder
from agemem_jax.protocol import prompts
from agemem_jax.protocol.events import RetrievalEvent, RetrievedEntry
from agemem_jax.protocol.messages import Kind
from agemem_jax.rollout.episode import Episode, EpisodeRules, Rules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.player import Player
from agemem_jax.rollout.tool_use import Play
from agemem_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class ExpRAG:
    """Solved tasks of the training split as examples; no Stage 1, no memory, no tools.

    What an example is, and where it comes from:

    - Of a question: the question, the facts that it takes, and the expected answer of a task of the
      training split, as the data set has them.
    - In an environment: what the tasks of the training split tell of episodes that were played to
      their goal (`Task.supporting_facts`): the goal, and the actions that reached it.

    So they are demonstrations. The papers' bank is made of rollouts of agents, of which the second
    one keeps failures, too, and adds what it plays while it is evaluated. Nothing is ever taken of
    a held-out split; a task that is trained on never sees itself.

    Retrieval is once, in front of the goal, by the embedding of the goal in words (the "static"
    variant of the first paper). Of an environment that says its mission only when it is reset, this
    is what the task says, such as the level. Of what Stage 1 tells it hears nothing: where a
    question asks for that, it is No-Memory with examples of the form.

    Attributes:
      examples: shown at most; fewer where they would take more than half of the budget.
      pool: tasks of the training split that examples are taken from, the first ones.
    """

    title: ClassVar[str] = "ExpRAG"
    trained: ClassVar[bool] = False
    examples: int = 3
    pool: int = 128

    def __post_init__(self):
        for name in ("examples", "pool"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    def rules(self, player: Player, episode: EpisodeConfig) -> Rules:
        """How it plays tasks.

        Raises:
          ValueError: the tasks have no training split.
        """
        if player.past is None:
            raise ValueError("ExpRAG needs a task source with a training split to learn from.")
        bank = _bank(player.past, player.store.embedder, self.pool)
        stages = tuple(stage for stage in episode.stages if stage != 1)
        config = dataclasses.replace(episode, stages=stages, tools=())
        return player.rules(config, functools.partial(_start, bank=bank, count=self.examples))


@dataclasses.dataclass(frozen=True)
class Example:
    """One past trajectory.

    Attributes:
      key: what it is found by.
      text: as it is shown.
      task_id: of a question, the task that it is; None where it tells of another episode.
    """

    key: str
    text: str
    task_id: str | None = None


def examples_of(task: Task) -> list[Example]:
    """What a task of the training split gives to others."""
    if not task.is_question:
        return [Example(fact, f"- {_line(fact)}") for fact in task.supporting_facts]
    facts = " ".join(map(_line, task.supporting_facts))
    text = f"- Question: {_line(task.query)} Facts: {facts} Answer: {task.answer}"
    return [Example(task.query, text, task.task_id)]


def _line(text: str) -> str:
    return " ".join(text.split())


class Bank:
    """Examples with the embeddings of their keys. Axis order: [example, dim]."""

    def __init__(self, examples: Sequence[Example], embedder: Embedder):
        self.examples = list({example.text: example for example in examples}.values())
        self._embedder = embedder
        keys = [example.key for example in self.examples]
        self._vectors: Float[np.ndarray, "example dim"] = np.asarray(embedder.embed(keys))

    def nearest(self, task: Task, count: int) -> list[tuple[Example, float]]:
        """The examples nearest to a task, but itself, with their cosines, best first."""
        query = self._embedder.embed([f"{task.query} {task.category}".strip()])
        scores = self._vectors @ np.asarray(query)[0]
        order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
        found = [
            (self.examples[place], float(scores[place]))
            for place in order
            if self.examples[place].task_id != task.task_id
            and (not task.is_question or self.examples[place].key != task.query)
        ]
        return found[:count]


@functools.lru_cache(maxsize=4)
def _bank(past: Callable[[], Sequence[Task]], embedder: Embedder, pool: int) -> Bank:
    """One for all episodes of a player.

    Raises:
      ValueError: the training split tells of nothing.
    """
    tasks = past()
    examples = [e for index in range(min(pool, len(tasks))) for e in examples_of(tasks[index])]
    if not examples:
        raise ValueError(
            f"ExpRAG found no example: the first {min(pool, len(tasks))} tasks of the training "
            "split tell no facts and no past episodes."
        )
    return Bank(examples, embedder)


def _start(rules: EpisodeRules, task: Task, bank: Bank, count: int) -> "ExpRAGEpisode":
    return ExpRAGEpisode(rules, task, bank.nearest(task, count))


class ExpRAGEpisode(Episode):
    """An episode with examples in front of its goal."""

    def __init__(self, rules: EpisodeRules, task: Task, examples: list[tuple[Example, float]]):
        super().__init__(rules, task)
        self._examples = examples

    def pursue_goal(self) -> Play:
        shown = list(self._examples)
        while shown and self._length(shown) > self.config.max_context_tokens // 2:
            shown.pop()
        entries = tuple(
            RetrievedEntry(f"example_{number}", example.text, score)
            for number, (example, score) in enumerate(shown, 1)
        )
        self.events.append(RetrievalEvent(self.stage, self.step, self.task.query, entries))
        if shown:
            self.show("user", _text(shown), Kind.TASK_MESSAGE)
        yield from super().pursue_goal()

    def _length(self, shown: list[tuple[Example, float]]) -> int:
        return len(self.chat.message("user", _text(shown), Kind.TASK_MESSAGE).token_ids)


def _text(shown: list[tuple[Example, float]]) -> str:
    return prompts.examples_text([example.text for example, _ in shown])
