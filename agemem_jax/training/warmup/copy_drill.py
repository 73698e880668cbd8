"""Copying exercises for a policy that is trained from nothing.

What an agent does to its memory is mostly copying: names from messages into calls, ids
from results, facts from memories into answers. A small model finds this out late when it
sees demonstrations only. It learns it within some hundred steps on random tokens: first
one short phrase said over and over, then several phrases in noise, said again at length.
"""

import dataclasses

import numpy as np

from agemem_jax.rollout.trajectory import Segment


@dataclasses.dataclass(frozen=True)
class Drill:
    """How long the drill is, in optimiser steps at the start of the warm-up.

    Attributes:
      repeat_steps: with exercises of `repeated_phrase`.
      recall_steps: with exercises of `recalled_phrases`, after those.
      repeat_batch, recall_batch: exercises in one step.
    """

    repeat_steps: int = 0
    recall_steps: int = 0
    repeat_batch: int = 20
    recall_batch: int = 6

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(
                    f"warmup.drill.{field.name} is {getattr(self, field.name)}; it must be 0 or "
                    "more."
                )

    @property
    def steps(self) -> int:
        return self.repeat_steps + self.recall_steps

    def exercises(self, step: int, rng: np.random.Generator, vocabulary: range) -> list["Exercise"]:
        """The batch of step `step` of the drill."""
        if step < self.repeat_steps:
            return [repeated_phrase(rng, vocabulary) for _ in range(self.repeat_batch)]
        return [recalled_phrases(rng, vocabulary) for _ in range(self.recall_batch)]


@dataclasses.dataclass(frozen=True)
class Exercise:
    """One sequence, in the form that packing takes."""

    segments: list[Segment]


def repeated_phrase(
    rng: np.random.Generator,
    vocabulary: range,
    length: int = 96,
    periods: range = range(8, 41),
) -> Exercise:
    """A random phrase over and over, to be predicted from its second time on.

    Args:
      rng: draws everything.
      vocabulary: token ids to use.
      length: of the exercise, in tokens.
      periods: lengths of the phrase. They must vary: at one distance, looking back that far
        is enough, and nothing about content is learned.
    """
    period = int(rng.choice(periods))
    phrase = rng.integers(vocabulary.start, vocabulary.stop, period)
    predicted = np.arange(length) >= period
    return _exercise(np.resize(phrase, length), np.where(predicted, 0, -1))


def recalled_phrases(
    rng: np.random.Generator,
    vocabulary: range,
    phrases: int = 12,
    phrase_lengths: range = range(3, 13),
    noise_lengths: range = range(0, 24),
) -> Exercise:
    """Phrases in noise, then the same phrases in random order.

    Of a repeated phrase every token but the first is to be predicted: the first one says
    which phrase it is.

    Args:
      rng: draws everything.
      vocabulary: token ids to use.
      phrases: how many phrases.
      phrase_lengths, noise_lengths: of each phrase and of the noise around it, in tokens.
    """

    def draw(lengths: range) -> list[int]:
        return rng.integers(vocabulary.start, vocabulary.stop, rng.choice(lengths)).tolist()

    chosen = [draw(phrase_lengths) for _ in range(phrases)]
    tokens: list[int] = []
    steps: list[int] = []
    for phrase in chosen:
        new = [*draw(noise_lengths), *phrase]
        tokens += new
        steps += [-1] * len(new)
    for step, index in enumerate(rng.permutation(phrases)):
        noise, phrase = draw(noise_lengths), chosen[index]
        tokens += [*noise, *phrase]
        steps += [-1] * (len(noise) + 1) + [step] * (len(phrase) - 1)
    return _exercise(np.asarray(tokens), np.asarray(steps))


def _exercise(tokens: np.ndarray, step_index: np.ndarray) -> Exercise:
    segment = Segment(
        token_ids=tokens.astype(np.int32),
        action_mask=step_index >= 0,
        step_index=step_index.astype(np.int32),
        log_probs=np.zeros(len(tokens), np.float32),
    )
    return Exercise([segment])
