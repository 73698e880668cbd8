"""The bank's rollout axis splits over devices without any communication."""

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import re
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from agemem_jax.memory import bank as bank_lib
from agemem_jax.memory.embedders import HashedNGramEmbedder
from agemem_jax.memory.operations import Add, Retrieve, no_operations
from agemem_jax.memory.store import MemoryStore

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
split = NamedSharding(mesh, PartitionSpec("data"))
bank = jax.device_put(bank_lib.init_bank(8, 4, 16), split)
ops = jax.device_put(no_operations(8, 4, 16), split)
text = bank_lib.apply.lower(bank, ops, max_top_k=2).compile().as_text()
print("collectives", re.findall(r"all-gather|all-reduce|all-to-all|collective-permute", text))

stores = [MemoryStore.create(HashedNGramEmbedder(16), 8, 4, sharding=s) for s in (None, split)]
for store in stores:
    store.execute({row: Add(f"fact {row}") for row in range(8)}, 1)
answers = [store.execute({row: Retrieve("fact 3") for row in range(8)}, 2) for store in stores]
print("equal", answers[0] == answers[1], stores[1].bank.valid.sharding.spec)
"""


def test_a_bank_split_over_four_devices_answers_the_same_without_collectives():
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
            "PYTHONPATH": root,
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[0] == "collectives []"
    assert lines[1].startswith("equal True") and "data" in lines[1]
