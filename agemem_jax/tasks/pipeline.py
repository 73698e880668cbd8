"""Grain pipeline: batches of tasks from any random-access source.

The iterator's state says exactly which batch comes next, so that a run resumed from a
checkpoint (`grain.checkpoint.CheckpointSave` and `CheckpointRestore`) sees the tasks that
an uninterrupted run would have seen.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grain

from agemem_jax.tasks.hotpotqa import HotpotQASource
from agemem_jax.tasks.multihop import MultihopSource
from agemem_jax.tasks.task import Task


class TaskSource(Protocol):
    """Tasks by index, the same task for the same index in every process."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Task: ...


SOURCES: dict[str, Callable[..., TaskSource]] = {
    "multihop": MultihopSource,
    "hotpotqa": HotpotQASource,
}


def make_source(name: str, split: str, **options: Any) -> TaskSource:
    """The tasks of a split of a data set by name.

    Options of "multihop": `size`, `seed`, `config` (MultihopConfig). Of "hotpotqa":
    `data_dir`, `manual_dir`, `train_file`, `validation_file`, `config`
    (HotpotQATaskConfig). Raises ValueError for an unknown name.
    """
    if name not in SOURCES:
        raise ValueError(f"The data set must be one of {', '.join(SOURCES)}, not {name!r}.")
    return SOURCES[name](split, **options)


def task_iterator(
    source: TaskSource,
    batch_size: int,
    seed: int,
    *,
    shuffle: bool = True,
    num_epochs: int | None = None,
    shard_index: int = 0,
    shard_count: int = 1,
) -> grain.DatasetIterator:
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
    dataset = dataset.repeat(num_epochs)
    dataset = dataset[shard_index : len(dataset) - len(dataset) % shard_count : shard_count]
    dataset = dataset.batch(batch_size, drop_remainder=True, batch_fn=_as_list)
    # Batches are cheap to make beside a rollout: a little read-ahead is enough.
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


def _as_list(tasks: Sequence[Task]) -> list[Task]:
    return list(tasks)
