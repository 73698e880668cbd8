"""Scores kept from run to run: one line of JSON each, in `scores.jsonl`.

Whoever can write to a shared work directory can write this file, so it is data that
nothing executes: a line that is no key with a score in [0, 1] counts as not there. Caches
of earlier versions (`cache.db` beside it) held pickled values and are never opened.
"""

import json
import os
import pathlib
from collections.abc import Mapping

from absl import logging

FILE_NAME = "scores.jsonl"


class ScoreCache:
    """Scores by key. A file that cannot be read or written costs its scores, nothing else."""

    def __init__(self, folder: str | os.PathLike | None):
        """Keeps scores in `folder`; None keeps none."""
        self._path = None if folder is None else pathlib.Path(folder) / FILE_NAME
        self._scores: dict[str, float] | None = None

    def read(self, key: str) -> float | None:
        """The score kept for `key`, or None."""
        if self._scores is None:
            self._scores = self._load()
        return self._scores.get(key)

    def write(self, scores: Mapping[str, float]) -> None:
        """Adds scores to those kept."""
        if self._path is None or not scores:
            return
        if self._scores is None:
            self._scores = self._load()
        self._scores.update(scores)
        lines = "".join(
            json.dumps({"key": key, "score": score}) + "\n" for key, score in scores.items()
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab+") as file:
                if file.tell():  # a line that a crash cut off must not swallow the next one
                    file.seek(-1, os.SEEK_END)
                    lines = lines if file.read(1) == b"\n" else "\n" + lines
                file.write(lines.encode())
        except OSError as error:
            logging.warning("The judge's cache %s cannot be written: %s", self._path, error)

    def _load(self) -> dict[str, float]:
        if self._path is None:
            return {}
        try:
            if self._path.exists() and not self._path.is_file():
                raise OSError("it is no file")
            lines = self._path.read_bytes().split(b"\n") if self._path.exists() else []
        except OSError as error:
            logging.warning("The judge's cache %s cannot be read: %s", self._path, error)
            return {}
        entries = [_entry(line) for line in lines if line.strip()]
        damaged = entries.count(None)
        if damaged:
            logging.warning("The judge's cache %s: %d lines are no scores.", self._path, damaged)
        return dict(entry for entry in entries if entry is not None)


def _entry(line: bytes) -> tuple[str, float] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    key, score = value.get("key"), value.get("score")
    if not isinstance(key, str) or isinstance(score, bool) or not isinstance(score, int | float):
        return None
    return (key, float(score)) if 0 <= score <= 1 else None
