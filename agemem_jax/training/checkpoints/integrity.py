"""Whether what a checkpoint holds is what was written, and fits what is asked for.

A truncated or altered file may otherwise read back as plausible numbers: array storage
fills in what it does not find.
"""

import json
import zlib
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jaxtyping import PyTree


def _checksum(path: epath.Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    """All files under a folder, which may be in a bucket: those know no recursive patterns."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def write_manifest(manifest: epath.Path, folder: epath.Path) -> None:
    """Records size and CRC-32 of every file under `folder`, atomically."""
    sums = {
        str(path.relative_to(folder)): [path.stat().length, _checksum(path)]
        for path in _files(folder)
    }
    manifest.parent.mkdir(parents=True, exist_ok=True)
    unfinished = manifest.with_suffix(".tmp")
    unfinished.write_text(json.dumps(sums))
    unfinished.replace(manifest)


def damage(manifest: epath.Path, folder: epath.Path) -> str | None:
    """What differs from the manifest, in words; None when nothing does.

    None also without a readable manifest: a process may have been killed between writing
    the folder and writing its manifest, and the folder is complete then.
    """
    try:
        sums = json.loads(manifest.read_text())
    except (OSError, ValueError):
        return None
    for name, (size, checksum) in sums.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().length != size:
            return f"{name} has {path.stat().length} bytes instead of {size}"
        if _checksum(path) != checksum:
            return f"{name} has other contents than were written"
    return None


def layout(tree: PyTree) -> dict[str, str]:
    """Shape and type of every array by its path, to compare configurations by."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def fingerprint(tree: PyTree) -> int | None:
    """Checksum of the arrays' bytes; None where this process does not hold them all."""
    checksum = 0
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, np.ndarray | jax.Array):
            return None
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return None
        values = np.ascontiguousarray(np.asarray(leaf))
        checksum = zlib.crc32(values.view(np.uint8).reshape(-1), checksum)
    return checksum
