"""What the copying exercises ask for can be answered from what stands before it."""

import numpy as np
import pytest

from agemem_jax.training.warmup.copy_drill import Drill, recalled_phrases, repeated_phrase

VOCABULARY = range(5, 10_000)  # large, so that no token occurs twice by chance often


def predicted(exercise) -> tuple[list[int], np.ndarray]:
    (segment,) = exercise.segments
    assert not segment.log_probs.any()
    return segment.token_ids.tolist(), np.flatnonzero(segment.action_mask)


@pytest.mark.parametrize("seed", range(5))
def test_a_repeated_phrase_is_predicted_from_its_second_time_on(seed):
    rng = np.random.default_rng(seed)
    tokens, targets = predicted(repeated_phrase(rng, VOCABULARY, length=50, periods=range(8, 20)))
    period = int(targets[0])
    assert period in range(8, 20) and len(tokens) == 50
    assert targets.tolist() == list(range(period, 50))
    assert all(tokens[i] == tokens[i - period] for i in targets)
    assert set(tokens) <= set(VOCABULARY)


@pytest.mark.parametrize("seed", range(5))
def test_recalled_phrases_continue_what_was_said_after_the_same_token(seed):
    exercise = recalled_phrases(np.random.default_rng(seed), VOCABULARY, phrases=4)
    tokens, targets = predicted(exercise)
    pairs = list(zip(tokens, tokens[1:], strict=False))
    for target in targets:
        pair = (tokens[target - 1], tokens[target])
        assert pairs.index(pair) < target - 1, "a predicted token was not said before"
    steps = exercise.segments[0].step_index
    assert set(steps[targets].tolist()) == {0, 1, 2, 3}, "not every phrase is recalled"


def test_the_drill_changes_from_repeating_to_recalling():
    drill = Drill(repeat_steps=2, recall_steps=3, repeat_batch=4, recall_batch=5)
    assert drill.steps == 5

    def sizes(step):
        rng = np.random.default_rng(0)
        return [len(e.segments[0].token_ids) for e in drill.exercises(step, rng, VOCABULARY)]

    assert sizes(1) == [96] * 4
    assert len(sizes(2)) == 5 and len(set(sizes(2))) > 1
    with pytest.raises(ValueError, match="warmup.drill.repeat_steps is -1"):
        Drill(repeat_steps=-1)
