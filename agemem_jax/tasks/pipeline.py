"""Grain pipeline: batches of tasks from any random-access source.

The iterator's state is the number of tasks that all processes have been given, so that a
resumed run goes on with the next task, whatever its batches and however many its processes.
"""

import sys
from typing import Protocol

import grain

from agemem_jax.tasks.task import Task


class TaskSource(Protocol):
    """Tasks by index, the same task for the same index in every process."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Task: ...


class TaskIterator(grain.DatasetIterator):
    """Lists of tasks, one after the other; made by `task_iterator`.

    A Grain iterator, so that Orbax and `grain.checkpoint` save and restore it. Its state is
    `{"tasks": n}`, the tasks that all shards together have been given. The states of before,
    `{"next_index": n}`, counted batches; they are read as batches of this iterator's size.
    """

    def __init__(
        self, dataset: grain.MapDataset, batch_size: int, shard_index: int, shard_count: int
    ):
        super().__init__()
        self._dataset = dataset
        self._batch_size = batch_size
        self._shard_index = shard_index
        self._shard_count = shard_count
        self._tasks = 0

    def __next__(self) -> list[Task]:
        end = self._tasks + self._batch_size * self._shard_count
        if end > len(self._dataset):
            raise StopIteration
        batch = [
            self._dataset[index]
            for index in range(self._tasks + self._shard_index, end, self._shard_count)
        ]
        self._tasks = end
        return batch

    def get_state(self) -> dict[str, int]:
        return {"tasks": self._tasks}

    def set_state(self, state: dict[str, int]) -> None:
        if "tasks" in state:
            self._tasks = int(state["tasks"])
        else:
            self._tasks = int(state["next_index"]) * self._batch_size * self._shard_count


def task_iterator(
    source: TaskSource,
    batch_size: int,
    seed: int,
    *,
    shuffle: bool = True,
    num_epochs: int | None = None,
    shard_index: int = 0,
    shard_count: int = 1,
) -> TaskIterator:
    """Iterates over lists of `batch_size` tasks.

    The order is global: of the epochs laid end to end, shard i of n takes every n-th task
    from the i-th on. The batches that all shards see at one step are together the batch
    that one process with n times the batch size would see. All shards give the same
    number of batches; an incomplete last batch is dropped.

    Args:
      source: where the tasks come from.
      batch_size: tasks in a batch of this shard.
      seed: of the order; every epoch is shuffled anew.
      shuffle: false keeps the order of the source.
      num_epochs: passes over the source; None never ends.
      shard_index, shard_count: which share of the tasks this process takes.

    Raises:
      ValueError: an argument is out of range, or no batch can be filled.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
    if num_epochs is not None and num_epochs < 1:
        raise ValueError(f"num_epochs must be at least 1, or None for no end, not {num_epochs}.")
    if shard_count < 1 or not 0 <= shard_index < shard_count:
        raise ValueError(
            f"shard_index must lie in [0, shard_count), got shard_index {shard_index} "
            f"with shard_count {shard_count}."
        )
    if len(source) < 1:
        raise ValueError("The task source is empty; it must hold at least one task.")
    available = sys.maxsize if num_epochs is None else len(source) * num_epochs
    if available < batch_size * shard_count:
        raise ValueError(
            f"{num_epochs} epoch(s) of {len(source)} tasks fill no batch of {batch_size} on "
            f"{shard_count} shard(s): lower batch_size or raise num_epochs."
        )

    dataset = grain.MapDataset.source(source).seed(seed)
    if shuffle:
        dataset = dataset.shuffle()
    return TaskIterator(dataset.repeat(num_epochs), batch_size, shard_index, shard_count)
