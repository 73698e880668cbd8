"""What baselines share that hear Stage 1 and are asked nothing there.

They keep the history themselves, whole or in parts, and leave the policy nothing to decide
before Stage 2; so Stage 1 costs them no generation, but for summaries.
"""

import dataclasses
from typing import Literal

from agemem_jax.protocol.events import UnaskedEditEvent
from agemem_jax.protocol.messages import Context
from agemem_jax.rollout.episode import Episode
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.tool_use import Play


def listening_config(base: EpisodeConfig, tools: tuple = ()) -> EpisodeConfig:
    """The rules of `base` with other tools, and nothing retrieved beside messages."""
    return dataclasses.replace(base, tools=tools, auto_retrieve=0, retrieve_each_step=False)


class Listening(Episode):
    """An episode in which messages of Stage 1 are heard and not answered."""

    def respond_to_message(self) -> Play:
        if self.stage == 1:
            yield from self.make_room()
        else:
            yield from super().respond_to_message()

    def said(self) -> list[int]:
        """The places of all messages that may leave the context."""
        return [i for i, message in enumerate(self.context.messages) if not message.pinned]

    def record_edit(
        self,
        edit: Literal["trimmed", "summarised", "archived"],
        before: Context,
        content: str | None = None,
        memory_id: str | None = None,
        error: str | None = None,
    ) -> None:
        """Adds the event of an edit, given the context in front of it."""
        kept = {id(message) for message in self.context.messages}
        self.events.append(
            UnaskedEditEvent(
                stage=self.stage,
                step=self.step,
                edit=edit,
                removed=tuple(m.text for m in before.messages if id(m) not in kept),
                content=content,
                memory_id=memory_id,
                error=error,
                tokens_before=before.num_tokens,
                tokens_after=self.context.num_tokens,
            )
        )
