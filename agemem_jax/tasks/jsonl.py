"""Tasks of a user's own, from JSON Lines: one JSON object a line, no code.

    {"question": "Where does Ada work?", "answer": "Orland", "messages": ["Ada works in Orland."]}

`rows.FIELDS` says what a line may hold. Every line is checked when the source is made; tasks
are read from the file when they are asked for, so that memory holds places and not rows.
"""

import dataclasses
import functools
import json
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from agemem_jax.tasks import rows
from agemem_jax.tasks.task import Task

_BOM = b"\xef\xbb\xbf"
_NAME = "jsonl"


@dataclasses.dataclass(frozen=True)
class JsonLinesTasks:
    """The lines of two files.

    Attributes:
      train_file: path of the file that is trained on; None has no such split.
      test_file: path of the file that is held out; None has no such split.

    Raises:
      ValueError: a file or a line is not as it must be: its place and the reason.
    """

    train_file: str | None = None
    test_file: str | None = None

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def __post_init__(self):
        if self.train_file is None and self.test_file is None:
            raise ValueError(
                "Tasks of JSON Lines need a file: give its path as train_file, test_file, or both."
            )
        given = [split for split in self.splits if self._file(split) is not None]
        paths = [_find(self._file(split), f"{split}_file") for split in given]
        if len(set(paths)) < len(paths):
            raise ValueError(
                f"train_file and test_file are both {self.test_file}; held-out tasks must be "
                "others than those that are trained on."
            )
        for split in given:
            self(split)

    def __call__(self, split: str) -> "JsonLines":
        """The tasks of a split, in the order of its lines.

        Raises:
          ValueError: there is no such split, or no file for it; or the file is wrong.
        """
        if split not in self.splits:
            raise ValueError(f"The split must be one of {', '.join(self.splits)}, not {split!r}.")
        file = self._file(split)
        if file is None:
            raise ValueError(
                f"There are no {split} tasks: give the path of their file as {split}_file."
            )
        path = _find(file, f"{split}_file")
        places, state = _places(path, _state(path), file, split)
        return JsonLines(path, file, split, places, state)

    def _file(self, split: str) -> str | None:
        return self.train_file if split == "train" else self.test_file


@dataclasses.dataclass(frozen=True, eq=False)
class JsonLines(Sequence):
    """The tasks of a file that was checked.

    Attributes:
      path: where it is.
      file: the same as the user named it, for sentences.
      split: what it is used for.
      places: [task, 2], the byte at which its line begins and the number of the line.
      state: of the file when it was checked.
    """

    path: Path
    file: str
    split: str
    places: np.ndarray
    state: tuple[int, int]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Task:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"Task {index} is outside a source of {len(self)} tasks.")
        begin, number = (int(each) for each in self.places[index])
        if _state(self.path) != self.state:
            raise ValueError(
                f"{self.file} has changed since its lines were checked; start again, and leave it "
                "as it is while a run reads it."
            )
        with self.path.open("rb") as file:
            file.seek(begin)
            return _task(file.readline(), f"{self.file}, line {number}", self.split, number)


def _find(file: str, option: str) -> Path:
    path = Path(file).expanduser()
    if path.is_dir():
        raise ValueError(f"{option} is {file}, a folder; it must be a file of JSON Lines.")
    if not path.is_file():
        raise ValueError(f"{option} is {file}, but there is no such file.")
    return path.resolve()


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=16)
def _places(
    path: Path, state: tuple[int, int], file: str, split: str
) -> tuple[np.ndarray, tuple[int, int]]:
    """Where each task's line begins, and the state of the file, which keys the cache.

    Raises ValueError, in one sentence, for the first line that is wrong.
    """
    found: list[tuple[int, int]] = []
    line_of: dict[str, int] = {}
    begin = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1 and line.startswith(_BOM):
                begin, line = len(_BOM), line[len(_BOM) :]
            if line.strip():
                where = f"{file}, line {number}"
                task_id = _task(line, where, split, number).task_id
                if task_id in line_of:
                    raise ValueError(
                        f"{where}: the id {task_id.removeprefix(f'{_NAME}-{split}-')!r} is that "
                        f"of line {line_of[task_id]}; every line must have its own."
                    )
                line_of[task_id] = number
                found.append((begin, number))
            begin += len(line)
    if not found:
        raise ValueError(f"{file} holds no line; each line must be a JSON object, a task.")
    return np.array(found, np.int64), state


def _task(line: bytes, where: str, split: str, number: int) -> Task:
    row = _decode(line, where)
    return rows.to_task(row, where, source=_NAME, split=split, default_id=f"line-{number}")


def _decode(line: bytes, where: str) -> Any:
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8."
        ) from error
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except json.JSONDecodeError as error:
        reason = error.msg[:1].lower() + error.msg[1:]
        raise ValueError(
            f"{where}: it is not JSON ({reason} at column {error.colno}); each line must be one "
            "JSON object, all on that line."
        ) from error
    except _Unreadable as error:
        raise ValueError(f"{where}: {error}.") from error
    except ValueError as error:  # Python reads whole numbers up to some thousand digits
        raise ValueError(f"{where}: it holds a number of too many digits.") from error
    except RecursionError as error:
        raise ValueError(f"{where}: its lists or objects are nested too deep.") from error


class _Unreadable(ValueError):
    """What Python's decoder would let pass."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Unreadable(f"the field {json.dumps(twice)} is given twice")
    return found


def _constant(name: str) -> Any:
    raise _Unreadable(f"{name} is no number of JSON")
