"""Tasks from a data set of Hugging Face: by its name on the hub, or from a folder.

Columns are named as options; rows then go through the reader of `rows`, as lines of JSON
Lines do. The `datasets` package is needed for this source only.
"""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from agemem_jax.tasks import rows
from agemem_jax.tasks.task import Task

_NAME = "huggingface"
# Fields that a data set may hold as numbers; rows are text.
_NUMBERS_TOO = ("answer", "id", "category")
_LONGEST_REASON = 200


@dataclasses.dataclass(frozen=True)
class HFDatasetTasks:
    """The rows of two splits of a data set.

    Attributes:
      name: on the hub, such as "owner/data", or the path of a folder: with Parquet, CSV or
        JSON files named after splits, or as `DatasetDict.save_to_disk` writes it.
      config: which part of a data set that has several.
      revision: branch, tag or commit on the hub.
      train_split, test_split: which rows are trained on and held out; parts are written
        "train[:90%]" and "train[90%:]". None has no such split.
      question_column, answer_column: what holds the question and the expected answer.
      messages_column: what holds the messages of Stage 1, as a list of texts or one text;
        None has none.
      distractors_column, facts_column, stale_facts_column, id_column, category_column: what
        holds the other fields of `rows.FIELDS`; None leaves them out.

    Raises:
      ImportError: the `datasets` package is missing.
      ValueError: the data set, a column or a row is not as it must be.
    """

    name: str | None = None
    config: str | None = None
    revision: str | None = None
    train_split: str | None = "train"
    test_split: str | None = "test"
    question_column: str = "question"
    answer_column: str = "answer"
    messages_column: str | None = "messages"
    distractors_column: str | None = None
    facts_column: str | None = None
    stale_facts_column: str | None = None
    id_column: str | None = None
    category_column: str | None = None

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def __post_init__(self):
        if not self.name:
            raise ValueError(
                "Tasks of Hugging Face need the name of a data set, such as owner/data, or the "
                "path of a folder as name."
            )
        if self.train_split == self.test_split:
            what = "both None" if self.test_split is None else f"both {self.test_split!r}"
            raise ValueError(
                f"train_split and test_split are {what}; they must be different parts of the "
                "data set, such as 'train[:90%]' and 'train[90%:]'."
            )
        for split in self.splits:
            if self._part(split) is not None:
                self(split)

    def __call__(self, split: str) -> "HFRows":
        """The tasks of a split, in the order of the data set.

        Raises:
          ValueError: there is no such split, or no part of the data set for it; or the data
            set cannot be loaded, or is wrong.
        """
        if split not in self.splits:
            raise ValueError(f"The split must be one of {', '.join(self.splits)}, not {split!r}.")
        part = self._part(split)
        if part is None:
            raise ValueError(f"There are no {split} tasks: name a part as {split}_split.")
        columns = {
            field: getattr(self, f"{field}_column")
            for field in rows.FIELDS
            if getattr(self, f"{field}_column", None) is not None
        }
        return _checked(self.name, self.config, self.revision, part, split, tuple(columns.items()))

    def _part(self, split: str) -> str | None:
        return self.train_split if split == "train" else self.test_split


@dataclasses.dataclass(frozen=True, eq=False)
class HFRows(Sequence):
    """The tasks of one split.

    Attributes:
      data: a `datasets.Dataset`, whose rows stay on disk.
      columns: the column of each field.
      name, part: of the data set, and which rows of it, for sentences.
      split: what they are used for.
    """

    data: Any
    columns: tuple[tuple[str, str], ...]
    name: str
    part: str
    split: str

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Task:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"Task {index} is outside a source of {len(self)} tasks.")
        return self.task(self.data[index], index)

    def where(self, index: int) -> str:
        return f"row {index} of split {self.part} of {self.name}"

    def task(self, values: dict[str, Any], index: int) -> Task:
        """The task of a row, whose columns are given."""
        row: dict[str, Any] = {"messages": []}
        for field, column in self.columns:
            value = _converted(field, values[column], self.data.features[column])
            if value is not None or field in rows.QUESTION:
                row[field] = value
        return rows.to_task(
            row, self.where(index), source=_NAME, split=self.split, default_id=f"row-{index}"
        )


def _converted(field: str, value: Any, feature: Any) -> Any:
    """A value of a column as the field of a row holds it."""
    if hasattr(feature, "int2str") and isinstance(value, int):  # labels, which have names
        return feature.int2str(value) if value >= 0 else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if field in _NUMBERS_TOO and is_number:
        return str(value)
    if field in rows.LISTS and isinstance(value, str):
        return [value]
    return value


@functools.lru_cache(maxsize=16)
def _checked(
    name: str,
    config: str | None,
    revision: str | None,
    part: str,
    split: str,
    columns: tuple[tuple[str, str], ...],
) -> HFRows:
    """The rows of a split, each of which was looked at once."""
    data = _load(name, config, revision, part)
    for field, column in columns:
        if column not in data.column_names:
            raise ValueError(
                f"{name} has no column {column!r}, which {field}_column names; its columns are "
                f"{', '.join(data.column_names)}."
            )
    found = HFRows(data, columns, name, part, split)
    if not len(found):
        raise ValueError(f"Split {part} of {name} holds no row.")
    row_of: dict[str, int] = {}
    index = 0
    wanted = [column for _, column in columns]
    for batch in data.select_columns(list(dict.fromkeys(wanted))).iter(batch_size=256):
        for values in zip(*(batch[column] for column in wanted), strict=True):
            task_id = found.task(dict(zip(wanted, values, strict=True)), index).task_id
            if task_id in row_of:
                raise ValueError(
                    f"{found.where(index)}: the id {task_id.removeprefix(f'{_NAME}-{split}-')!r} "
                    f"is that of row {row_of[task_id]}; every row must have its own."
                )
            row_of[task_id] = index
            index += 1
    return found


def _load(name: str, config: str | None, revision: str | None, part: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "Tasks of Hugging Face need the datasets package: pip install datasets, or pip "
            "install -r requirements-benchmarks.txt."
        ) from error
    path = Path(name).expanduser()
    if (path / "state.json").is_file():
        raise ValueError(
            f"{name} holds one data set without splits, as Dataset.save_to_disk writes it; save a "
            "DatasetDict of splits, or write Parquet files named train and test into a folder."
        )
    name = str(path) if path.is_dir() else name
    try:
        return datasets.load_dataset(name, config, revision=revision, split=part)
    except Exception as error:  # of many kinds, from many packages
        told = str(error.__cause__ or error)
        reason = " ".join(told.split())[:_LONGEST_REASON].rstrip(".")
        raise ValueError(
            f"The data set {name} (split {part}) could not be loaded: {reason}."
        ) from error
