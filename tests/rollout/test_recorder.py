import numpy as np

from agemem_jax.rollout.recorder import SegmentRecorder


def test_a_growing_context_shares_one_segment():
    recorder = SegmentRecorder()
    recorder.record([1, 2], [3, 4], [-0.1, -0.2], step=0)
    recorder.record([1, 2, 3, 4, 5], [6], [-0.3], step=1)
    (segment,) = recorder.segments()
    assert segment.token_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert segment.step_index.tolist() == [-1, -1, 0, 0, -1, 1]
    np.testing.assert_allclose(segment.log_probs, [0, 0, -0.1, -0.2, 0, -0.3], rtol=1e-6)


def test_an_edited_context_opens_a_segment_and_trains_no_action_twice():
    recorder = SegmentRecorder()
    recorder.record([1, 2], [3, 4], [-0.1, -0.2], step=0)
    recorder.record([1, 3, 4, 5], [6], [-0.3], step=1)
    first, second = recorder.segments()
    assert first.action_mask.tolist() == [False, False, True, True]
    assert second.action_mask.tolist() == [False, False, False, False, True]


def test_a_context_that_comes_back_continues_its_old_segment():
    recorder = SegmentRecorder()
    recorder.record([1, 2], [3], [-0.1], step=0)
    recorder.record([9], [8], [-0.5], step=1)  # a summary prompt in between
    recorder.record([1, 2, 3, 4], [5], [-0.2], step=2)
    first, second = recorder.segments()
    assert first.token_ids.tolist() == [1, 2, 3, 4, 5]
    assert second.step_index.tolist() == [-1, 1]
