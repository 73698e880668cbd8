"""The rules of an episode as options."""

import dataclasses

from agemem_jax.protocol import prompts
from agemem_jax.protocol.tools import ToolSpec
from agemem_jax.rollout.tools.registry import TOOL_NAMES, tool_table


@dataclasses.dataclass(frozen=True)
class EpisodeConfig:
    """The rules of an episode (paper sections 3.3 and A.3).

    Attributes:
      stages: which stages are played, ascending; Stage 3 is always the last.
      max_context_tokens: T_max; a longer prompt ends the episode.
      max_response_tokens: limit of one response.
      max_summary_tokens: limit of one summary.
      max_messages: Stage 1 takes at most this many messages (N_max of Stage 1); what is
        left out becomes an event.
      messages_per_session: messages of Stage 1 after which the context is reset, as between two
        conversations of a long history; 0 tells all of them in one.
      max_rounds: N_max of Stage 3 for a question. In an environment, whose goal limits the
        actions, it limits the responses without one between two of them.
      rounds_per_message: actions the policy has for one message of Stages 1 and 2.
      max_calls: calls of one response that are run; the others are answered with an error.
        A policy that behaves makes one, or one for each fact of a message.
      max_summaries: summaries of one response that are written, each a generation of its
        own. Behind one of everything there is nothing left to summarise.
      auto_retrieve: k of the automatic retrieval beside a Stage 1 message; 0 is none.
      top_k: entries of a `Retrieve_memory` that names no number.
      filter_threshold: θ; a filter removes messages at least this similar.
      tools: on offer, by name or `package.module:attribute`, in this order; a call of any other
        is answered as unknown. The goal may bring more, such as the one that acts in an
        environment.
      retrieve_each_step: retrieve for the newest message before every action
        (the RAG variants of section 4.1) in Stages 2 and 3. What is found stands at the end
        of that message, so that no earlier token changes.
      prompt_style: "full" or "compact" system prompt.
      show_context_use: whether every message that the policy did not write ends with the
        length of the prompt so far and T_max, in tokens.
    """

    stages: tuple[int, ...] = (1, 2, 3)
    max_context_tokens: int = 8192
    max_response_tokens: int = 2048
    max_summary_tokens: int = 512
    max_messages: int = 16
    messages_per_session: int = 0
    max_rounds: int = 8
    rounds_per_message: int = 1
    max_calls: int = 16
    max_summaries: int = 1
    auto_retrieve: int = 3
    top_k: int = 3
    filter_threshold: float = 0.6
    tools: tuple[str | ToolSpec, ...] = TOOL_NAMES
    retrieve_each_step: bool = False
    prompt_style: str = "full"
    show_context_use: bool = False

    def __post_init__(self):
        if tuple(sorted(set(self.stages))) != tuple(self.stages) or self.stages[-1:] != (3,):
            raise ValueError(
                f"episode.stages is {self.stages}; it must be (3,), (1, 3), (2, 3) or (1, 2, 3)."
            )
        for name in (
            "max_context_tokens", "max_response_tokens", "max_summary_tokens", "max_messages",
            "max_rounds", "rounds_per_message", "max_calls", "max_summaries", "top_k",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"episode.{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("auto_retrieve", "messages_per_session"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"episode.{name} is {getattr(self, name)}; it must be 0 (none) or more."
                )
        if self.prompt_style not in prompts.STYLES:
            raise ValueError(
                f"episode.prompt_style is {self.prompt_style!r}; it must be one of "
                f"{', '.join(prompts.STYLES)}."
            )
        if not -1.0 <= self.filter_threshold <= 1.0:
            raise ValueError(
                f"episode.filter_threshold is {self.filter_threshold}; it is a cosine "
                "similarity and must lie in [-1, 1]."
            )
        try:
            tool_table(self.tools)
        except ValueError as error:
            raise ValueError(f"episode.tools: {error}") from error

    @property
    def max_length(self) -> int:
        """Longest prompt plus response, in tokens: what the engine must hold."""
        return self.max_context_tokens + max(self.max_response_tokens, self.max_summary_tokens)
