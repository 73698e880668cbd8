"""Writes the report of a work directory: `report.html`, and `figures/*.png` beside it."""

import os

from absl import logging
from etils import epath

from agemem_jax.report import contents
from agemem_jax.report.page import DEFAULT, Limits, page

FILE = "report.html"
FIGURES = "figures"


def write_report(
    workdir: str | os.PathLike,
    output: str | os.PathLike | None = None,
    limits: Limits = DEFAULT,
) -> epath.Path:
    """Writes the report of what is in `workdir`, whole or not at all.

    Args:
      workdir: of a run or an evaluation, finished or not.
      output: the HTML file; by default `report.html` in `workdir`. Pictures are beside it.
      limits: of its size.

    Returns:
      The file.

    Raises:
      ValueError: `workdir` holds nothing to show.
    """
    path = epath.Path(workdir) / FILE if output is None else epath.Path(output)
    text, figures = page(contents.read(workdir), limits)
    folder = path.parent / FIGURES
    path.parent.mkdir(parents=True, exist_ok=True)
    if figures:
        folder.mkdir(exist_ok=True)
    for figure in figures:
        _replace(folder / f"{figure.name}.png", figure.png)
    _replace(path, text.encode("utf-8", "replace"))
    return path


def try_to_write_report(workdir: str | os.PathLike) -> epath.Path | None:
    """`write_report` for what has a purpose of its own: an error is logged, and None returned."""
    try:
        return write_report(workdir)
    except Exception as error:  # no picture is worth a run
        logging.warning("The report was not written: %s: %s", type(error).__name__, error)
        return None


def _replace(path: epath.Path, content: bytes) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_bytes(content)
    unfinished.replace(path)
