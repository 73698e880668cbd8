"""Builds segments from the prompts and responses of one episode.

The recorder knows nothing of stages or tools: a prompt that continues an earlier
segment extends it, any other prompt opens a new one. Whatever edited the context
(filter, summary, reset), the segments come out right.
"""

from collections.abc import Sequence

import numpy as np

from agemem_jax.rollout.trajectory import Segment


class SegmentRecorder:
    """Collects segments; `record` is called once per generation."""

    def __init__(self):
        self._segments: list[dict[str, list]] = []

    def record(
        self,
        prompt: Sequence[int],
        token_ids: Sequence[int],
        log_probs: Sequence[float],
        step: int,
    ) -> None:
        """Adds one action span.

        Args:
          prompt: the exact tokens that the action was sampled after.
          token_ids: the sampled tokens.
          log_probs: their log-probabilities under the sampling distribution.
          step: index of the action in the trajectory.
        """
        segment = self._continued(prompt)
        if segment is None:
            segment = {"token_ids": [], "step_index": [], "log_probs": []}
            self._segments.append(segment)
        new = list(prompt[len(segment["token_ids"]) :])
        segment["token_ids"] += [*new, *token_ids]
        segment["step_index"] += [-1] * len(new) + [step] * len(token_ids)
        segment["log_probs"] += [0.0] * len(new) + list(log_probs)

    def _continued(self, prompt: Sequence[int]) -> dict[str, list] | None:
        """The longest segment whose tokens are a prefix of `prompt`."""
        prompt = list(prompt)
        fitting = [
            segment
            for segment in self._segments
            if prompt[: len(segment["token_ids"])] == segment["token_ids"]
        ]
        return max(fitting, key=lambda segment: len(segment["token_ids"]), default=None)

    def segments(self) -> list[Segment]:
        return [
            Segment(
                token_ids=np.asarray(segment["token_ids"], np.int32),
                action_mask=np.asarray(segment["step_index"], np.int32) >= 0,
                step_index=np.asarray(segment["step_index"], np.int32),
                log_probs=np.asarray(segment["log_probs"], np.float32),
            )
            for segment in self._segments
        ]
