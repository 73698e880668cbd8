"""Copying exercises for a policy that is trained from nothing.

What an agent does to its memory is mostly copying: names from messages into calls, ids
from results, facts from memories into answers. A small model finds this out late when it
sees demonstrations only, and within a few hundred steps when it practises on random
tokens first: phrases, noise, then the phrases again in another order.
"""

import dataclasses

import numpy as np

from agemem_jax.rollout.trajectory import Segment


@dataclasses.dataclass(frozen=True)
class Exercise:
    """One sequence, in the form that packing takes."""

    segments: list[Segment]


def exercise(
    rng: np.random.Generator,
    vocabulary: range,
    phrases: int = 6,
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
    step_index = np.asarray(steps, np.int32)
    segment = Segment(
        token_ids=np.asarray(tokens, np.int32),
        action_mask=step_index >= 0,
        step_index=step_index,
        log_probs=np.zeros(len(tokens), np.float32),
    )
    return Exercise([segment])
