"""What episodes ask of the host runs beside the engine, and may crash or hang."""

import threading
import time

import jax
import pytest

from agemem_jax.memory.embedders import make_embedder
from agemem_jax.memory.store import MemoryStore
from agemem_jax.rollout.driver import Rollout, run_episodes
from agemem_jax.rollout.host_calls import HostCalls, ToolFault
from agemem_jax.rollout.requests import HostCall
from agemem_jax.rollout.trajectory import Trajectory
from agemem_jax.tasks.multihop import MultihopSource


def fail():
    raise OSError("no such game")


def hang():
    threading.Event().wait(5)


class CallingRules:
    """Episodes that make one call each and end with its result as their only memory."""

    def __init__(self, calls, catches=False):
        self.calls, self.catches = iter(calls), catches

    def play(self, task):
        call = next(self.calls)
        try:
            result = yield call
        except ToolFault as fault:
            if not self.catches:
                raise
            result = f"told: {fault}"
        return Trajectory(task, [], [], [], [], {"result": result})


class NoBackend:
    slots = 3

    def begin(self, slot, rollout):
        pass

    def step(self):
        return []


def play(calls, **options):
    source = MultihopSource("train", len(calls))
    rollouts = [Rollout(source[i], jax.random.key(i)) for i in range(len(calls))]
    store = MemoryStore.create(make_embedder("hashed_ngrams"), rollouts=3, entries=2)
    return run_episodes(rollouts, CallingRules(calls, **options), store, NoBackend())


def test_a_crash_and_a_hang_end_their_own_episodes_with_a_sentence_and_no_other():
    calls = [
        HostCall(lambda: "fine", 5.0, "env"), HostCall(fail, 5.0, "env"),
        HostCall(hang, 0.2, "env"), HostCall(lambda: "fine, too", 5.0, "env"),
    ]  # fmt: skip
    first, crashed, hung, last = play(calls)
    assert first.memory == {"result": "fine"} and last.memory == {"result": "fine, too"}
    assert first.fault is None and last.fault is None
    assert "env crashed with OSError: no such game" in crashed.fault
    assert crashed.task.task_id in crashed.fault and not crashed.segments
    assert "env hung: no answer within 0.2 s" in hung.fault


def test_an_episode_may_catch_a_fault_and_go_on():
    (played,) = play([HostCall(fail, 5.0, "env")], catches=True)
    assert played.fault is None
    assert played.memory["result"].startswith("told: env crashed")


def test_calls_of_several_episodes_run_side_by_side():
    begun = time.monotonic()
    play([HostCall(lambda: time.sleep(0.4), 5.0, "env") for _ in range(3)])
    assert time.monotonic() - begun < 1.0


def test_a_late_answer_is_not_taken_for_that_of_the_next_call():
    calls, release = HostCalls(), threading.Event()
    calls.start(0, HostCall(lambda: release.wait(5) and "late", 0.05, "env"))
    ((slot, result),) = calls.finished(patience=1.0)
    assert slot == 0 and isinstance(result, ToolFault)
    calls.start(0, HostCall(lambda: release.set() or time.sleep(0.2) or "own", 5.0, "env"))
    found = []
    while not found:
        found = calls.finished(patience=1.0)
    assert found == [(0, "own")]


def test_a_bug_in_an_episode_is_not_hidden():
    class Broken(CallingRules):
        def play(self, task):
            yield from ()
            raise KeyError("bug")

    source = MultihopSource("train", 1)
    store = MemoryStore.create(make_embedder("hashed_ngrams"), rollouts=3, entries=2)
    with pytest.raises(KeyError):
        run_episodes([Rollout(source[0], jax.random.key(0))], Broken([]), store, NoBackend())
