"""Full context: the whole history stays in the prompt, as far as the budget goes.

The baseline of LoCoMo (arXiv 2402.17753), LongMemEval (2410.10813) and of Mem0's paper
(2504.19413), which long-context models win surprisingly often and pay for by the token.
"""

import dataclasses
from typing import ClassVar

from agemem_jax.methods.listening import Listening, listening_config
from agemem_jax.rollout.episode import Rules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.player import Player
from agemem_jax.rollout.tool_use import Play


@dataclasses.dataclass(frozen=True)
class FullContext:
    """No reset and no tools: what was said in Stage 1 is still there in Stage 3.

    Where the next prompt would be longer than `episode.max_context_tokens`, the oldest messages
    leave whole, until it fits; an `UnaskedEditEvent` tells which. The newest one and the goal stay.
    Papers cut the oldest tokens instead. Stage 1 has its `episode.max_messages` like that of
    every method.
    """

    title: ClassVar[str] = "Full context"
    trained: ClassVar[bool] = False

    def rules(self, player: Player, episode: EpisodeConfig) -> Rules:
        return player.rules(listening_config(episode), FullContextEpisode)


class FullContextEpisode(Listening):
    """An episode whose context is only ever cut at its old end."""

    def end_session(self) -> Play:
        if not self.said():  # in front of the first stage
            yield from super().end_session()

    def make_room(self) -> Play:
        before = self.context
        while (old := self.said()[:-1]) and self._too_long():
            self.context = self.context.without(frozenset(old[:1]))
        if self.context is not before:
            self.record_edit("trimmed", before)
        yield from ()

    def _too_long(self) -> bool:
        return self.prompt_length(self.context) > self.config.max_context_tokens
