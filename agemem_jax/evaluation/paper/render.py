"""Renders studies of stored records into a folder, each as table and, where it is one, picture."""

import pathlib
from collections.abc import Sequence

from agemem_jax.evaluation.paper import figures, tables, writing
from agemem_jax.evaluation.paper.plan import Plan
from agemem_jax.evaluation.paper.results import Results
from agemem_jax.evaluation.paper.studies import STUDIES
from agemem_jax.evaluation.paper.tables import Table


def render(folder: pathlib.Path, plans: Sequence[Plan], names: Sequence[str]) -> dict[str, Table]:
    """The tables by name; writes them, their pictures and an index of all that the folder has.

    Args:
      folder: where to.
      plans: whose records are read; the first says which rows and columns there are.
      names: of studies.

    Raises:
      ValueError: a study cannot be made of these plans.
    """
    every = [Results(plan, folder) for plan in plans]
    made = {name: tables.MAKE[name](every) for name in names}
    for name, table in made.items():
        writing.write(folder, table)
        if name in figures.DRAW:
            figures.DRAW[name](folder / name, table, every)
    there = [
        (name, study.title)
        for name, study in STUDIES.items()
        if (folder / f"{name}.html").is_file()
    ]
    writing.write_index(folder, there)
    return made
