"""The record of one episode: segments to train on, events to reward.

While the context only grows, consecutive steps share one segment, so training on
segments gives the per-step gradients at a fraction of the tokens. An edit, a reset
or a summary prompt starts a new segment (design: every action span is trained
once, in the segment whose tokens before it are exactly its sampling context).
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from agemem_jax.protocol.events import DroppedMessagesEvent, Event, OutcomeEvent, OverflowEvent
from agemem_jax.tasks.task import Task


@dataclasses.dataclass
class Segment:
    """A token sequence with one or more action spans.

    Attributes:
      token_ids: the tokens, prompt and actions.
      action_mask: true where the policy sampled the token and it is trained here.
      step_index: index of the action in the trajectory where `action_mask`, else -1.
      log_probs: log-probability under the distribution sampled from where
        `action_mask`, else 0. `log_probs[i]` is that of `token_ids[i]` given
        `token_ids[:i]`.
    """

    token_ids: Int[np.ndarray, " token"]
    action_mask: Bool[np.ndarray, " token"]
    step_index: Int[np.ndarray, " token"]
    log_probs: Float[np.ndarray, " token"]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What an episode asked of the engine, as the driver counted it, whatever the method is.

    Attributes:
      calls: generations, those of summaries and of a method's own prompts included.
      prompt_tokens: of all prompts together, cached ones included.
      sampled_tokens: of all responses together.
      seconds: its share of the time of the machine, which the episodes that are under way at a
        moment have in equal parts; all shares together are the time that playing took. It depends
        on the machine and on what else runs there, so that episodes are compared without it.
    """

    calls: int
    prompt_tokens: int
    sampled_tokens: int
    seconds: float = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True)
class TranscriptEntry:
    """One line of the human-readable record, in order of appearance."""

    stage: int
    step: int
    role: str
    text: str


@dataclasses.dataclass
class Trajectory:
    """One rollout of one task.

    Attributes:
      task: what was played.
      segments: what to train on.
      events: what happened, in order.
      transcript: messages and responses as text, in order.
      prompt_tokens: prompt length of every generation, in tokens.
      memory: contents of the long-term memory at the end, by id.
      tools: names of those that the policy could call.
      max_context_tokens: T_max, the budget of the context; None where there was no context.
      left: for each entry of the transcript the first step whose prompt was without it, since an
        edit took it out of the context; None where it stayed until the context was reset, or the
        episode ended. None altogether where this was not recorded.
      fault: what ended the episode from outside, in a sentence; such a trajectory holds
        nothing, and must not be rewarded nor trained on.
      cost: None where no driver played it, and in records of earlier versions.
    """

    task: Task
    segments: list[Segment]
    events: list[Event]
    transcript: list[TranscriptEntry]
    prompt_tokens: list[int]
    memory: dict[str, str]
    tools: tuple[str, ...] = ()
    max_context_tokens: int | None = None
    left: list[int | None] | None = None
    fault: str | None = None
    cost: Cost | None = None

    @classmethod
    def failed(cls, task: Task, fault: str) -> "Trajectory":
        """The record of an episode of `task` that `fault` kept from its end."""
        return cls(task, [], [], [], [], {}, fault=fault)

    @property
    def num_steps(self) -> int:
        """How many responses the policy gave."""
        return len(self.prompt_tokens)

    @property
    def mean_prompt_tokens(self) -> float | None:
        """Over the generations, in tokens; None where the first prompt was too long for one."""
        return float(np.mean(self.prompt_tokens)) if self.prompt_tokens else None

    @property
    def context_shares(self) -> list[float]:
        """Every prompt over T_max, that of an overflow included; none where T_max is not known."""
        if self.max_context_tokens is None:
            return []
        overflows = [e.context_tokens for e in self.events if isinstance(e, OverflowEvent)]
        return [tokens / self.max_context_tokens for tokens in (*self.prompt_tokens, *overflows)]

    @property
    def dropped_messages(self) -> int:
        """How many messages of the task Stage 1 left out."""
        return sum(e.dropped for e in self.events if isinstance(e, DroppedMessagesEvent))

    @property
    def outcome(self) -> OutcomeEvent | None:
        """How Stage 3 ended; None where a question got no answer, or Stage 3 was not reached."""
        return next((e for e in reversed(self.events) if isinstance(e, OutcomeEvent)), None)
