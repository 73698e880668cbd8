"""Environments in worker processes: what becomes of those that fail, and of the others."""

import os
import threading
import time

import pytest

from agemem_jax.environments.pool import EnvironmentConfig, EnvironmentFault, EnvironmentPool
from agemem_jax.environments.protocol import Observation, Outcome
from agemem_jax.tasks.task import EnvironmentGoal
from tests.environments import faulty

FAULTY = EnvironmentGoal("tests.environments.faulty:Faulty")


@pytest.fixture
def pool():
    pool = EnvironmentPool(EnvironmentConfig(workers=2, step_timeout=1.0))
    yield pool
    pool.close()


def reset(pool, owner, goal=FAULTY, seed=0):
    return pool.ask(owner, "reset", goal, (seed,))


def step(pool, owner, action="count"):
    return pool.ask(owner, "step", arguments=(action,))


def test_an_environment_is_built_with_its_options_and_answers_in_the_protocols_form(pool):
    goal = EnvironmentGoal("tests.environments.faulty:Faulty", {"start": 1})
    assert reset(pool, 0, goal, seed=1) == Observation("Go.")
    assert step(pool, 0) == Outcome("3", done=True)
    assert pool.ask(0, "actions") is None, "it cannot list them"


def test_each_owner_has_an_environment_of_its_own_in_a_process_of_its_own(pool):
    reset(pool, 0), reset(pool, 1)
    assert [step(pool, 0).text, step(pool, 1).text, step(pool, 0).text] == ["1", "1", "2"]
    processes = {step(pool, owner, "process").text for owner in (0, 1)}
    assert len(processes) == 2 and str(os.getpid()) not in processes


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ("hang", "hung: no answer within 1 s"),
        ("die", "its process died"),
        ("raise", "failed with RuntimeError: out of paint"),
        ("text", "step returned a str, not an Outcome"),
        ("overdo", "the progress is 2.0, which is not in"),
    ],
)
def test_one_that_fails_is_told_by_name_and_replaced_and_no_other_notices(pool, action, says):
    reset(pool, 0), reset(pool, 1)
    with pytest.raises(EnvironmentFault, match=f"environment tests.environments.faulty.*{says}"):
        step(pool, 0, action)
    assert step(pool, 1).text == "1"
    reset(pool, 0)
    assert step(pool, 0).text == "1"


def test_one_that_cannot_start_says_what_it_lacks(pool):
    with pytest.raises(EnvironmentFault, match="NoStart: .*pip install simulator."):
        reset(pool, 0, EnvironmentGoal("tests.environments.faulty:NoStart"))
    with pytest.raises(EnvironmentFault, match="There is no environment 'chess'"):
        reset(pool, 0, EnvironmentGoal("chess"))


def test_an_episode_waits_for_a_free_worker_without_counting_as_hung(pool):
    reset(pool, 0), reset(pool, 1)
    waited = []

    def wait():
        reset(pool, 2)
        waited.append(step(pool, 2).text)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(1.5)  # longer than a step may take
    assert not waited
    pool.release(0)
    thread.join(30)
    assert waited == ["1"]


def test_a_worker_is_replaced_after_so_many_episodes():
    pool = EnvironmentPool(EnvironmentConfig(workers=1, episodes_per_worker=2))
    processes = []
    for _ in range(3):
        reset(pool, 0)
        processes.append(step(pool, 0, "process").text)
        pool.release(0)
    pool.close()
    assert processes[0] == processes[1] != processes[2]


def test_a_class_runs_in_this_process(pool):
    reset(pool, 0, EnvironmentGoal(faulty.Faulty, {"start": 1}))
    assert step(pool, 0, "process").text == str(os.getpid())
    with pytest.raises(EnvironmentFault, match="out of paint"):
        step(pool, 0, "raise")


def test_processes_end_with_the_pool():
    pool = EnvironmentPool(EnvironmentConfig(workers=1))
    reset(pool, 0)
    process = int(step(pool, 0, "process").text)
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"workers": 0}, "environments.workers is 0; it must be at least 1"),
        ({"step_timeout": 0.0}, "environments.step_timeout is 0.0; it must be above 0"),
    ],
)
def test_a_wrong_option_is_refused_with_one_sentence(options, says):
    with pytest.raises(ValueError, match=says):
        EnvironmentConfig(**options)
