"""What a program does about the accelerators of its machine before it uses one."""

import glob
import os
import sys

import jax
from absl import flags, logging

_AUTOTUNE_LEVEL = flags.DEFINE_integer(
    "autotune_level", None, "How hard XLA tries out kernels on a GPU, which is most of the time "
    "to compile there: 0 is not at all, 4 as it does by itself. What was found is kept in the "
    "folder of compiled programs.", 0, 4,
)  # fmt: skip
_GPUS = ("/dev/nvidia[0-9]*", "/proc/driver/nvidia/gpus/*", "/dev/dxg")  # the last one on WSL
_OTHERS = ("/dev/accel*", "/dev/vfio/*", "/dev/kfd", "/dev/dri/render*")  # TPUs, and other GPUs


def prepare() -> None:
    """Hands flags on to XLA; must come before JAX has looked for devices.

    On a machine that shows no accelerator JAX is told to look for none: its packages for GPUs
    and TPUs, which compile for them anywhere, would complain of what is not there.
    """
    asked_for = os.environ.get("JAX_PLATFORMS") or jax.config.jax_platforms
    if not asked_for and sys.platform == "linux" and not _shows(*_GPUS, *_OTHERS):
        jax.config.update("jax_platforms", "cpu")
    if _AUTOTUNE_LEVEL.value is not None:
        given = os.environ.get("XLA_FLAGS", "")
        level = f"--xla_gpu_autotune_level={_AUTOTUNE_LEVEL.value}"
        os.environ["XLA_FLAGS"] = f"{given} {level}".strip()


def tell_unused_gpu() -> None:
    """Says so where a machine has a GPU and JAX does not use it, unless that was asked for."""
    asked_for = os.environ.get("JAX_PLATFORMS") or jax.config.jax_platforms
    if asked_for or jax.default_backend() != "cpu" or not _shows(*_GPUS):
        return
    logging.warning(
        "This machine has an NVIDIA GPU that JAX does not use, so everything runs on the CPU: "
        'pip install "jax[cuda13]==%s" (in a clone AGEMEM_EXTRA=cuda bash launch/setup.sh), or '
        "set JAX_PLATFORMS=cpu to keep it so.", jax.__version__,
    )  # fmt: skip


def _shows(*patterns: str) -> bool:
    return any(map(glob.glob, patterns))
