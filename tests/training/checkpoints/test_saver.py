"""What is saved in a hurry is the end of an iteration, whole, or nothing."""

import threading

import jax
import jax.numpy as jnp
import pytest

from agemem_jax.tasks.multihop import MultihopSource
from agemem_jax.tasks.pipeline import task_iterator
from agemem_jax.training.checkpoints.checkpoints import Checkpoints
from agemem_jax.training.checkpoints.position import Position
from agemem_jax.training.checkpoints.saver import Saver
from tests.training.checkpoints.test_checkpoints import assert_same_bits, make_state

DATA = {"tasks": 10, "digest": "d"}


@pytest.fixture
def iterator():
    return task_iterator(MultihopSource("train", 10), 2, seed=0)


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path)
    yield made
    made.close()


@pytest.fixture
def saver(checkpoints, iterator):
    return Saver(checkpoints, iterator, DATA)


def at(step):
    return Position({}, step, step)


def read(checkpoints, state, iterator):
    found, record = checkpoints.restore_latest(state, iterator)
    return found, Position({}, record["iteration"], record["step"]), record["data"]


def test_the_marked_end_of_an_iteration_is_saved_however_far_the_next_one_is(
    saver, checkpoints, iterator, tiny_decoder_config
):
    state = make_state(tiny_decoder_config, step=3)
    next(iterator)
    saver.mark(state, at(3))
    next(iterator)  # tasks of the iteration under way, to be played again
    rescued = []
    thread = threading.Thread(target=lambda: rescued.append(saver.rescue()))
    thread.start()
    thread.join()
    assert rescued == [True]
    found, position, data = read(checkpoints, make_state(tiny_decoder_config), iterator)
    assert_same_bits(found, state)
    assert (position, data, iterator.get_state()) == (at(3), DATA, {"tasks": 2})


def test_nothing_is_saved_of_a_state_whose_memory_an_update_took(
    saver, checkpoints, tiny_decoder_config
):
    state = make_state(tiny_decoder_config, step=3)
    saver.mark(state, at(3))
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    after = step(state.trainable)
    assert not saver.rescue() and checkpoints.latest() is None
    state = state.replace(trainable=after, step=jnp.asarray(4, jnp.int32))
    saver.mark(state, at(4))  # the iteration ended
    assert saver.rescue() and checkpoints.latest().step == 4


def test_it_waits_where_there_is_nothing_marked_or_the_main_thread_is_saving(
    saver, checkpoints, tiny_decoder_config
):
    assert not saver.rescue()
    saver.mark(make_state(tiny_decoder_config), at(0))
    with saver._lock:
        assert not saver.rescue()
    saver.forget()
    assert not saver.rescue() and checkpoints.latest() is None


def test_a_checkpoint_that_is_being_written_is_completed(saver, checkpoints, tiny_decoder_config):
    state = make_state(tiny_decoder_config, step=2)
    saver.mark(state, at(2))
    saver.save(state, at(2), wait=False)
    assert saver.rescue()
    assert [info.step for info in checkpoints.all()] == [2]
    assert (checkpoints.directory / "manifests" / "steps-2.json").exists()


def test_after_a_rescue_nothing_else_is_saved(saver, tiny_decoder_config):
    state = make_state(tiny_decoder_config, step=2)
    saver.mark(state, at(2))
    assert saver.rescue()
    late = threading.Thread(target=saver.save, args=(state, at(3)), daemon=True)
    late.start()
    late.join(timeout=0.5)
    assert late.is_alive()
