"""Memory systems do to their store what the real libraries do, given the same model replies.

The libraries' part is recorded (`compare_memory_systems.py --write` of `experiments/checks`); where
one is installed, a short conversation is played with it anew.
"""

import collections

import pytest

from experiments.checks import compare_memory_systems
from experiments.checks.memory_systems.adapters import ADAPTERS, EXPLAINED
from experiments.checks.memory_systems.conversations import conversations


@pytest.fixture(scope="module")
def tasks():
    return conversations()


@pytest.mark.parametrize("system", ADAPTERS)
def test_stores_change_as_the_library_changes_its_own_but_for_what_is_explained(system, tasks):
    ours = compare_memory_systems.of_ours(ADAPTERS[system], tasks)
    theirs = compare_memory_systems.recorded(system)
    pairs = zip(tasks, theirs, ours, strict=True)
    differ = {task.task_id for task, library, own in pairs if library != own.short}
    assert differ == set(EXPLAINED.get(system, {}))


@pytest.mark.parametrize(
    ("system", "kinds"),
    [
        ("mem0", {"ADD", "UPDATE", "DELETE"}),
        ("mem0_graph", {"ADD", "UPDATE", "DELETE", "LINK", "UNLINK"}),
        ("langmem", {"ADD", "UPDATE", "DELETE"}),
        ("a_mem", {"ADD", "UPDATE"}),
    ],
)
def test_the_conversations_provoke_every_kind_of_operation(system, kinds):
    runs = compare_memory_systems.recorded(system)
    counts = collections.Counter(each.kind for run in runs for each in run.operations)
    assert set(counts) == kinds
    assert min(counts.values()) >= 10


@pytest.mark.parametrize("system", ADAPTERS)
def test_the_installed_library_does_what_ours_does(system, tasks):
    adapter, told = ADAPTERS[system], tasks[1:2]
    try:
        (library,) = compare_memory_systems.run_library(adapter, told)
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("", "agemem_jax", "experiments"):
            raise  # a fault of ours
        pytest.skip(f"The library of {system} is not installed here: {error}")
    (own,) = compare_memory_systems.of_ours(adapter, told)
    assert library == own
