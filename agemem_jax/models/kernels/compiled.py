"""The C++ kernels for CPUs: compiled on first use, and kept beside the weights.

The compiler is `$CXX`, or the system's. Without one everything runs as XLA compiles it.
"""

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import logging

from agemem_jax.models import weights_cache

Result = jax.ShapeDtypeStruct | tuple[jax.ShapeDtypeStruct, ...]
LANES = 16  # of the widest vectors of cpu.h, which the others divide
_COMPILERS = ("c++", "g++", "clang++")


def available() -> bool:
    """Whether the kernels are, or can be, compiled here."""
    return _library() is not None


def supports(head_dim: int) -> bool:
    """Whether heads of this size divide into vectors."""
    return head_dim % LANES == 0


def check_heads(head_dim: int) -> None:
    """Raises a ValueError where a kernel would read past heads of this size."""
    if not supports(head_dim):
        raise ValueError(
            f"Heads of {head_dim} do not divide into vectors of {LANES}; model.backend must be "
            "'plain' for them."
        )


def call(target: str, result: Result) -> Callable[..., Any]:
    """The kernel of this name, as `jax.ffi.ffi_call` gives it.

    Raises:
      ValueError: it cannot be compiled.
    """
    if not available():
        raise ValueError(
            "The kernels of CPUs need a C++ compiler on this machine; install g++ or clang++, or "
            "set model.backend to 'plain'."
        )
    _register(target)
    return jax.ffi.ffi_call(target, result)


@functools.cache
def _register(target: str) -> None:
    handler = getattr(_library(), target)
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler), platform="cpu")


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The kernels as this compiler makes them for this processor."""
    named = os.environ.get("CXX")
    compiler = named or next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        logging.info("No C++ compiler was found; with one, CPUs would be faster.")
        return None
    try:
        return ctypes.CDLL(os.fspath(_compile(shlex.split(compiler))))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        logging.warning("The C++ kernels were not compiled, so CPUs are slower: %s", reason)
        return None


def _compile(compiler: Sequence[str]) -> pathlib.Path:
    folder = pathlib.Path(__file__).parent
    sources, headers = sorted(folder.glob("*.cc")), sorted(folder.glob("*.h"))
    arm = platform.machine() in ("aarch64", "arm64")
    command = [
        *compiler, "-std=c++17", "-O3", "-mcpu=native" if arm else "-march=native", "-fPIC",
        "-isystem", jax.ffi.include_dir(),
    ]  # fmt: skip
    # The macros tell the compiler's version, and what the processor can do.
    macros = _run([*command, "-dM", "-E", "-x", "c++", os.devnull])
    contents = (*command, macros, *(path.read_text() for path in (*sources, *headers)))
    key = hashlib.sha256("\0".join(contents).encode()).hexdigest()[:16]
    library = weights_cache.cache_directory() / "kernels" / f"{key}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as beside:
            made = pathlib.Path(beside) / library.name
            _run([*command, "-shared", *map(os.fspath, sources), "-o", os.fspath(made)])
            made.replace(library)  # whole, or not at all
    return library


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
