"""Batches of tasks: what one epoch holds, and what a resumed run sees."""

import dataclasses
import json

import grain
import orbax.checkpoint as ocp
import orbax.checkpoint.experimental.v1 as ocp_v1
import pytest

from agemem_jax.tasks.multihop import MultihopConfig, MultihopSource
from agemem_jax.tasks.pipeline import task_iterator
from agemem_jax.tasks.registry import TaskConfig
from agemem_jax.tasks.task import Question, Task


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Tasks that are nothing but their index."""

    size: int

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return Task(str(index), Question("", ""))


def numbers(batch):
    return [int(task.task_id) for task in batch]


def take(iterator, count):
    return [numbers(next(iterator)) for _ in range(count)]


def test_a_batch_is_a_list_of_tasks():
    batch = next(task_iterator(MultihopSource("train", 10, seed=1), 4, 0))
    assert isinstance(batch, list) and len(batch) == 4
    assert all(isinstance(task, Task) for task in batch)


def test_every_epoch_holds_every_task_once_in_another_order():
    batches = take(task_iterator(Numbered(12), 4, 0), 9)
    epochs = [sum(batches[i : i + 3], []) for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_depends_on_the_seed_alone():
    assert take(task_iterator(Numbered(50), 5, 1), 8) == take(task_iterator(Numbered(50), 5, 1), 8)
    assert take(task_iterator(Numbered(50), 5, 1), 8) != take(task_iterator(Numbered(50), 5, 2), 8)


def test_without_shuffling_the_order_is_the_sources():
    batches = list(task_iterator(Numbered(7), 3, 0, shuffle=False, num_epochs=2))
    assert [numbers(b) for b in batches] == [[0, 1, 2], [3, 4, 5], [6, 0, 1], [2, 3, 4]]


@pytest.mark.parametrize("done", [0, 1, 2, 3, 7])
def test_a_restored_state_gives_the_exact_next_batches(done):
    whole = take(task_iterator(Numbered(10), 4, 3), 12)
    first = task_iterator(Numbered(10), 4, 3)
    assert take(first, done) == whole[:done]
    state = json.loads(json.dumps(first.get_state()))
    second = task_iterator(Numbered(10), 4, 3)
    take(second, 2)  # a state must win over wherever the iterator stands
    second.set_state(state)
    assert take(second, 12 - done) == whole[done:]


def test_an_orbax_checkpoint_gives_the_exact_next_batches(tmp_path):
    source = MultihopSource("train", 10, 0, MultihopConfig())
    whole = task_iterator(source, 4, 3)
    expected = [next(whole) for _ in range(8)]
    first = task_iterator(source, 4, 3)
    assert [next(first) for _ in range(5)] == expected[:5]
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(5, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(first)))
        manager.wait_until_finished()
        second = task_iterator(source, 4, 3)
        manager.restore(5, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(second)))
    assert [next(second) for _ in range(3)] == expected[5:]


def test_orbaxs_new_checkpointer_gives_the_exact_next_batch_too(tmp_path):
    first = task_iterator(Numbered(10), 4, 3)
    take(first, 3)
    with ocp_v1.training.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save_checkpointables(3, {"data": first})
        expected = take(first, 4)
        second = task_iterator(Numbered(10), 4, 3)
        checkpointer.load_checkpointables(3, {"data": second})
    assert take(second, 4) == expected


@pytest.mark.parametrize("batch, shards", [(4, 1), (1, 1), (7, 1), (2, 3), (3, 4)])
def test_another_batch_size_or_number_of_shards_still_plays_every_task_once(batch, shards):
    first = task_iterator(Numbered(96), 8, 3)
    played = sum(take(first, 3), [])
    resumed = [
        task_iterator(Numbered(96), batch, 3, shard_index=i, shard_count=shards)
        for i in range(shards)
    ]
    for iterator in resumed:
        iterator.set_state(first.get_state())
    while len(played) + batch * shards <= 96:
        played += [number for iterator in resumed for number in numbers(next(iterator))]
    assert len(set(played)) == len(played) >= 96 - batch * shards + 1


def test_a_position_counted_in_batches_by_an_older_version_is_the_same_position():
    old = task_iterator(Numbered(50), 4, 3)
    old.set_state({"next_index": 3})
    new = task_iterator(Numbered(50), 4, 3)
    take(new, 3)
    assert old.get_state() == new.get_state() and take(old, 4) == take(new, 4)


def test_shards_divide_the_global_batch_of_one_process():
    alone = take(task_iterator(Numbered(10), 6, 4), 7)
    shards = [
        take(task_iterator(Numbered(10), 2, 4, shard_index=i, shard_count=3), 7) for i in range(3)
    ]
    for step, batch in enumerate(alone):
        assert sorted(batch) == sorted(sum((shard[step] for shard in shards), []))


def test_shards_of_unequal_data_give_equally_many_batches():
    shards = [
        list(task_iterator(Numbered(11), 1, 0, num_epochs=1, shard_index=i, shard_count=4))
        for i in range(4)
    ]
    assert [len(shard) for shard in shards] == [2, 2, 2, 2]
    seen = [number for shard in shards for batch in shard for number in numbers(batch)]
    assert len(set(seen)) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"num_epochs": 0}, "num_epochs must be at least 1, or None"),
        ({"shard_index": 2, "shard_count": 2}, "shard_index must lie in"),
        ({"batch_size": 6, "num_epochs": 1}, "fill no batch of 6"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        task_iterator(Numbered(5), **{"batch_size": 2, "seed": 0, **arguments})


def test_an_empty_source_and_an_unknown_data_set_are_errors():
    with pytest.raises(ValueError, match="source is empty"):
        task_iterator(Numbered(0), 1, 0)
    with pytest.raises(
        ValueError, match="no task source 'squad'; it must be one of multihop, hotpotqa"
    ):
        TaskConfig("squad")


class Sorted:
    splits = ("train", "test")
    sorted = True

    def __call__(self, split):
        return Numbered(10)


def test_a_slice_of_sorted_tasks_is_spread_and_of_others_the_first(monkeypatch):
    tasks = Numbered(10)
    assert numbers(TaskConfig("multihop", eval_size=4).held_out(tasks)) == [0, 1, 2, 3]
    assert numbers(TaskConfig(Sorted, eval_size=4).held_out(tasks)) == [0, 2, 5, 7]
    assert numbers(TaskConfig(Sorted, eval_size=40).held_out(tasks)) == list(range(10))
