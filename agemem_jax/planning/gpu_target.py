"""GPUs that are not there, as XLA's compiler for CUDA wants them described.

What the compiler asks of a card beside its memory and rates is the same for H100 and H200, which
have one chip: NVIDIA's "H100 Tensor Core GPU Architecture" and the table of compute capability
9.0 in the CUDA C++ Programming Guide, and the clock of the SXM cards.
"""

import importlib
import importlib.util
from typing import Any

import jax
from jax.experimental import topologies

from agemem_jax.planning.chips import Gpu, Topology

PLUGIN = "jax_plugins.xla_cuda13"
# Kernels are not tried out, which needs a card: XLA's own cost model chooses.
WITHOUT_CARD = {"xla_gpu_autotune_level": "0"}
_HOPPER = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "threads_per_core_limit": 2048,
    "core_count": 132,
    "fpus_per_core": 128,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 2**16 - 1,
    "block_dim_limit_z": 2**16 - 1,
    "shared_memory_per_block": 48 * 2**10,
    "shared_memory_per_block_optin": 227 * 2**10,
    "shared_memory_per_core": 228 * 2**10,
    "registers_per_core_limit": 2**16,
    "registers_per_block_limit": 2**16,
    "l2_cache_size": 50 * 2**20,
    "clock_rate_ghz": 1.98,
}
_LIBRARIES = """
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 8 }
"""


def config(gpu: Gpu) -> str:
    """The card as text of XLA's `GpuTargetConfigProto`."""
    facts = _HOPPER | {"device_memory_size": gpu.memory, "memory_bandwidth": int(gpu.hbm)}
    fields = "\n".join(f"  {name}: {value}" for name, value in facts.items())
    return (
        f"gpu_device_info {{\n{fields}\n  cuda_compute_capability {{ major: 9 }}\n}}"
        f'{_LIBRARIES}device_description_str: "{gpu.kind}"\n'
    )


def devices(topology: Topology) -> tuple[Any, ...]:
    """The GPUs of a topology, none of which is there, in the order of their machines.

    Raises:
      ValueError: JAX's plugin for CUDA is missing.
    """
    if not is_installed():
        version = jax.__version__
        raise ValueError(
            "JAX's plugin for CUDA, which has the compiler for GPUs, is not installed: pip install "
            f"jax-cuda13-plugin=={version} jax-cuda13-pjrt=={version} (or agemem_jax[cuda]); it "
            "needs no GPU."
        )
    importlib.import_module(PLUGIN)  # registers what the compiler is asked by
    machines = topology.chips // topology.host.chips
    return tuple(
        topologies.get_topology_desc(
            platform="cuda",
            topology_name=topology.name,
            target_config=config(topology.chip),
            topology=f"1x{machines}x{topology.host.chips}",
        ).devices
    )


def is_installed() -> bool:
    """Whether the compiler for GPUs is there."""
    try:
        return importlib.util.find_spec(PLUGIN) is not None
    except ModuleNotFoundError:
        return False
