"""The configuration that a run is recorded under, and what a later start may change of it.

`config.json` is written once, when a run starts to train. Every later start is compared with
it before anything is loaded: what `MAY_CHANGE` lists may differ, and stands in
`config_changes.jsonl` from then on; everything else is refused by name, and nothing on disk
has changed. Checkpoints carry the configuration they were written under, for the same
comparison.
"""

import dataclasses
import fnmatch
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from agemem_jax.training.configuration import earlier_versions, run_config
from agemem_jax.training.configuration.run_config import RunConfig

# Nothing of this decides what the policy is or which rewards it is given: how long the run is,
# where it runs and in which shapes, where its data and its judge are, how it is evaluated and
# watched.
MAY_CHANGE = (
    "curriculum.iterations",
    "curriculum.tasks_per_iteration",
    "curriculum.checkpoint_every",
    "curriculum.keep",
    "optimizer.total_steps",
    "mesh.*",
    "model.backend",
    "model.remat",
    "engine.*",
    "memory.device",
    "packing.*",
    "faults.*",
    "evaluation.*",
    "validation.*",
    "samples.*",
    "metrics.*",
    "tasks.eval_size",
    "tasks.eval_split",
    "tasks.options.*_dir",  # where things lie, not what they are
    "environments.*",
    "judge.base_url",
    "judge.api_key_variable",
    "judge.cache_dir",
    "judge.required",
    "judge.timeout",
    "judge.max_concurrency",
    "judge.max_attempts",
    "judge.first_pause",
    "judge.longest_pause",
    "judge.give_up_after",
)
# What names a part; another part has other options, of which nobody asked.
_PARTS = ("tasks.source", ".function")
# Of these groups, what changes the numbers that are sampled.
_FIXED = ("engine.weights", "engine.cache_dtype")
OF_WEIGHTS = ("backbone", "model.")  # what weights are read by, whatever is done with them


def changes(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Options that differ, by dotted name: (recorded, given)."""
    before, after = _flat(recorded), _flat(given)
    return {
        name: (before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }


def may_change(name: str) -> bool:
    """Whether a later start of a run may change the option `name`, such as "mesh.data"."""
    return name not in _FIXED and any(fnmatch.fnmatch(name, each) for each in MAY_CHANGE)


def refuse_conflicts(
    where: str, recorded: RunConfig, given: RunConfig, groups: Sequence[str] = ("",)
) -> None:
    """Compares what was recorded at `where` with what is given now.

    Args:
      where: for the sentence.
      recorded, given: what is compared.
      groups: how the names of options begin that count.

    Raises:
      ValueError: an option differs that may not; the sentence names all that do.
    """
    differing = changes(as_values(recorded), as_values(given))
    counted = [name for name in differing if name.startswith(tuple(groups))]
    wrong = [name for name in counted if not _may_differ(name, *differing[name])]
    others = tuple(f"{name.rpartition('.')[0]}.options." for name in wrong if name.endswith(_PARTS))
    wrong = [name for name in wrong if not name.startswith(others)]
    if not wrong:
        return
    told = ", ".join(
        f"{name} is {_shown(differing[name][0])} there and {_shown(differing[name][1])} now"
        for name in wrong[:5]
    )
    more = f" (and {len(wrong) - 5} more options)" if len(wrong) > 5 else ""
    raise ValueError(
        f"{where} was started with another configuration: {told}{more}; give the recorded "
        "values, or another --workdir."
    )


def _may_differ(name: str, recorded: Any, given: Any) -> bool:
    """Whether a run goes on with another value of an option."""
    if name == "engine.weights" and None in (recorded, given):  # the device's order of them
        return "int8" not in (recorded, given)
    return may_change(name)


def fixed_values(config: RunConfig) -> dict[str, Any]:
    """All options that no later start may change, by dotted name."""
    flat = _flat(as_values(config))
    return {name: value for name, value in flat.items() if not may_change(name)}


def as_values(config: RunConfig) -> dict[str, Any]:
    """A configuration as JSON holds it: plain values, lists for tuples."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_values(values: dict[str, Any]) -> RunConfig:
    """The inverse of `as_values`, also for what earlier versions have written.

    Raises:
      ValueError: this version does not know something of it.
    """
    return run_config.from_dict(earlier_versions.translate(values))


def read(workdir: str | os.PathLike) -> RunConfig | None:
    """The configuration that the run in `workdir` was started with; None without a run.

    Raises:
      ValueError: it cannot be read, or holds what this version does not know.
    """
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        return None
    try:
        return from_values(json.loads(path.read_text()))
    except ValueError as error:  # JSON's errors are among them
        raise ValueError(f"{path}, the record of a run, cannot be read: {error}") from error


def read_config(workdir: str | os.PathLike) -> RunConfig:
    """The configuration that a run was started with.

    Raises:
      FileNotFoundError: there is no run in `workdir`.
      ValueError: its record cannot be read.
    """
    config = read(workdir)
    if config is None:
        raise FileNotFoundError(
            f"{epath.Path(workdir) / 'config.json'} does not exist; --workdir must name the "
            "directory of a training run."
        )
    return config


def check(config: RunConfig, workdir: str | os.PathLike) -> None:
    """Refuses to start `config` where a run of another one is; touches nothing.

    Raises:
      ValueError: in one sentence that names the options.
    """
    recorded = read(workdir)
    if recorded is not None:
        refuse_conflicts(f"The run in {os.fspath(workdir)}", recorded, config)


def check_folder(workdir: str | os.PathLike) -> None:
    """Whether a run can keep its files in `workdir`, which is made where it is missing.

    Raises:
      OSError: it cannot.
    """
    folder = epath.Path(workdir)
    if "://" in os.fspath(workdir):
        return  # a bucket tells when it is written to
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"The work directory {os.fspath(workdir)} cannot be written to ({error.strerror}); "
            "--workdir must name a directory that can."
        ) from error


def write(config: RunConfig, workdir: str | os.PathLike, step: int) -> None:
    """Records a start that `check` let through, at `step` of the run.

    The first one writes `config.json`; a later one adds a line to `config_changes.jsonl` where
    something is not as it was before.
    """
    folder = epath.Path(workdir)
    recorded = read(workdir)
    if recorded is None:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / "config.json.tmp"
        unfinished.write_text(json.dumps(as_values(config), indent=2) + "\n")
        unfinished.replace(folder / "config.json")
        return
    path = folder / "config_changes.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    before = _flat(as_values(recorded))
    for line in lines:
        before |= {name: new for name, (_, new) in json.loads(line)["changes"].items()}
    now = _flat(as_values(config))
    differing = {
        name: (before.get(name), now[name]) for name in now if before.get(name) != now[name]
    }
    if differing:
        lines.append(json.dumps({"step": step, "changes": differing}))
        unfinished = folder / "config_changes.jsonl.tmp"
        unfinished.write_text("".join(line + "\n" for line in lines))
        unfinished.replace(path)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
