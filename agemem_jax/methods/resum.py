"""ReSum: the context is summarised when it nears its budget, and goes on from the summary.

Wu et al., "ReSum: Unlocking Long-Horizon Search Intelligence via Context Summarization"
(arXiv 2509.13313). The summary is a step of the policy and trained like any other, as in
ReSum-GRPO, where every part between two summaries gets the advantage of the whole.
"""

import dataclasses
import functools
from typing import ClassVar

from agemem_jax.methods.listening import Listening, listening_config
from agemem_jax.protocol import prompts
from agemem_jax.protocol.messages import Context, Kind, Message
from agemem_jax.rollout.episode import EpisodeRules, Rules
from agemem_jax.rollout.episode_config import EpisodeConfig
from agemem_jax.rollout.player import Player
from agemem_jax.rollout.tool_use import Play
from agemem_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class ReSum:
    """Periodic summaries in place of a memory and of tools.

    What differs from the paper:

    - The policy itself summarises, where the paper has a model of its own for that, by the same
      words that ask for a summary in AgeMem; the question is given with them once it is known.
    - ReSum has no stages. What Stage 1 leaves behind is a summary, too, since this is what the
      reset between stages is there to ask for: the context restarts from it. So does every
      session of a long history (`episode.messages_per_session`).
    - The newest message, which the policy has not answered yet, is not summarised but stays.

    Attributes:
      trigger: the share of `episode.max_context_tokens` from which a prompt is summarised.
    """

    title: ClassVar[str] = "ReSum"
    trained: ClassVar[bool] = False
    trigger: float = 0.75

    def __post_init__(self):
        if not 0 < self.trigger <= 1:
            raise ValueError(f"trigger is {self.trigger}; it must lie in (0, 1].")

    def rules(self, player: Player, episode: EpisodeConfig) -> Rules:
        start = functools.partial(ReSumEpisode, trigger=self.trigger)
        return player.rules(listening_config(episode), start)


class ReSumEpisode(Listening):
    """An episode that goes on from summaries of itself."""

    def __init__(self, rules: EpisodeRules, task: Task, trigger: float):
        super().__init__(rules, task)
        self._most = trigger * self.config.max_context_tokens

    def end_session(self) -> Play:
        summary = yield from self._summarise(self.said())
        yield from super().end_session()
        if summary is not None:
            self.context = self.context.append(summary)

    def make_room(self) -> Play:
        old = self.said()[:-1]
        if old and self.prompt_length(self.context) > self._most:
            yield from self._summarise(old)

    def _summarise(self, places: list[int]) -> Play:
        """Puts a summary in the place of these messages; returns it, None where it is empty.

        A summary alone is not summarised again.
        """
        chosen = [self.context.messages[place] for place in places]
        if not chosen or [message.kind for message in chosen] == [Kind.SUMMARY]:
            return chosen[0] if chosen else None
        before = self.context
        response = yield from self.generate(
            self._prompt(chosen), self.config.max_summary_tokens, "summary"
        )
        text, summary = response.text.strip(), None
        if text:
            summary = self.chat.message("user", prompts.summary_text(text), Kind.SUMMARY)
            self.context = before.replace(frozenset(places), summary)
        else:
            self.context = before.without(frozenset(places))
        self.record_edit("summarised", before, content=text)
        return summary

    def _prompt(self, chosen: list[Message]) -> Context:
        """Asks for a summary of these messages; the oldest are left out where they are too many."""
        asked = [m.text for m in self.context.messages if m.kind is Kind.QUERY]
        while True:
            text = "\n".join((*asked, *(message.text for message in chosen)))
            prompt = Context(
                (
                    self.chat.message("system", prompts.summary_prompt(), Kind.SYSTEM),
                    self.chat.message("user", text, Kind.TASK_MESSAGE),
                )
            )
            fits = self.prompt_length(prompt) <= self.config.max_context_tokens
            if fits or len(chosen) < 2:
                return prompt
            chosen = chosen[1:]
