"""Archive: after every four turns these leave the context, word for word, for the memory.

What conversational retrieval and MemGPT's archival storage (arXiv 2310.08560) come down to when
nothing is decided: no fact is extracted, none is updated, nothing is forgotten. A baseline that
costs no generation before the goal, and of no paper of its own that we know of.
"""

import dataclasses
import functools
from typing import ClassVar

from agemem_jax.memory import operations
from agemem_jax.methods.listening import Listening, listening_config
from agemem_jax.protocol.messages import Kind, Message
from agemem_jax.rollout.episode import EpisodeRules, Rules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.player import Player
from agemem_jax.rollout.requests import MemoryRequest
from agemem_jax.rollout.tool_use import Play
from agemem_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class ArchiveTurns:
    """Raw turns in the store, and `Retrieve_memory` to get them back.

    A turn is a message of Stage 1, or one of Stage 2 with the policy's reply, which leaves the
    context with it and is not kept: thoughts and tags are no conversation. What is left when
    a session or Stage 1 ends is archived as well. In Stage 3 nothing is archived. Before the goal
    the entries nearest to it are shown once (`first`); more of them the policy asks for itself.
    A memory that is full takes no more, which an `UnaskedEditEvent` tells; turns that it did not
    take stay in the context until the session ends.

    Attributes:
      turns: in an entry.
      first: whether the `episode.top_k` entries nearest to the goal are shown with it.
    """

    title: ClassVar[str] = "Turn archive"
    trained: ClassVar[bool] = False
    turns: int = 4
    first: bool = True

    def __post_init__(self):
        if self.turns < 1:
            raise ValueError(f"turns is {self.turns}; it must be at least 1.")

    def rules(self, player: Player, episode: EpisodeConfig) -> Rules:
        config = listening_config(episode, tools=("Retrieve_memory",))
        start = functools.partial(ArchiveEpisode, turns=self.turns, first=self.first)
        return player.rules(config, start)


class ArchiveEpisode(Listening):
    """An episode whose context moves into the memory turn by turn."""

    def __init__(self, rules: EpisodeRules, task: Task, turns: int, first: bool):
        super().__init__(rules, task)
        self._size, self._first = turns, first
        self._turns = 0  # since the last entry

    def respond_to_message(self) -> Play:
        yield from super().respond_to_message()
        self._turns += 1
        if self._turns == self._size:
            yield from self._archive()

    def end_session(self) -> Play:
        yield from self._archive()
        yield from super().end_session()

    def with_step_retrieval(self, text: str) -> Play:
        """The goal is the first message of Stage 3."""
        if self.stage == 3 and self._first:
            self._first = False
            return (yield from self.with_retrieval(text, self.config.top_k))
        return (yield from super().with_step_retrieval(text))

    def _archive(self) -> Play:
        """Makes an entry of all that was said and is still in the context."""
        self._turns, places, before = 0, self.said(), self.context
        told = [m.text for m in map(before.messages.__getitem__, places) if _is_told(m)]
        if not told:
            return
        content = "\n".join(told)
        result = yield MemoryRequest(operations.Add(content=content))
        if result.ok:
            self.memory[result.memory_id] = content
            self.context = before.without(frozenset(places))
        self.record_edit(
            "archived", before, content, memory_id=result.memory_id, error=result.error
        )


def _is_told(message: Message) -> bool:
    return message.kind in (Kind.TASK_MESSAGE, Kind.DISTRACTOR)
