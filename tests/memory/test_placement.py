"""Memories live on the host beside an accelerator, which a second CPU device stands for here."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from agemem_jax.memory import placement

_PROGRAM = """
import time
import jax, jax.numpy as jnp
from agemem_jax.memory import placement
from agemem_jax.memory.embedders import HashedNGramEmbedder
from agemem_jax.memory.operations import Add, Retrieve
from agemem_jax.memory.store import MemoryStore

accelerator, host = jax.devices()
placement.host_beside = lambda rollouts: host

def answers(store):
    store.execute({row: Add(f"fact {row}") for row in range(3)}, 1)
    first = store.execute({row: Retrieve("fact 2") for row in range(3)}, 2)
    again = MemoryStore.create(HashedNGramEmbedder(16), 3, 4, device="accelerator")
    again.set_state(store.get_state())
    return first, again.execute({0: Retrieve("fact 0")}, 3)

stores = {
    device: MemoryStore.create(HashedNGramEmbedder(16), 3, 4, device=device)
    for device in placement.DEVICES
}
found = {device: answers(store) for device, store in stores.items()}
print(found["auto"] == found["accelerator"] == found["host"])
print({device: store.bank.embeddings.device.id for device, store in stores.items()})

placement.ORDINARY_BYTES = 3 * 4 * 16 * 4
large = MemoryStore.create(HashedNGramEmbedder(16), 3, 4)
print(large.bank.embeddings.device.id)

# What the accelerator is busy with holds up no operation of the store.
@jax.jit
def busy(x):
    return jax.lax.while_loop(lambda x: x[0, 0] < 6e2, lambda x: jnp.tanh(x @ x) * 0 + x + 1, x)

x = jax.device_put(jnp.zeros((512, 512)), accelerator)
busy(x + 6e2).block_until_ready()
output = busy(x)
stores["auto"].execute({0: Retrieve("fact 1")}, 4)
print(output.is_ready())
"""


def test_an_operation_on_the_host_waits_for_nothing_of_the_accelerator():
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "True", "{'auto': 1, 'host': 1, 'accelerator': 0}", "0", "False",
    ]  # fmt: skip


class _Accelerator:
    """The sharding of arrays on a GPU that is not there."""

    class Device:
        platform = "gpu"

    device_set = (Device(),)


def test_the_host_is_found_only_beside_an_accelerator():
    rollouts = jnp.zeros(()).sharding
    assert placement.host_beside(rollouts) is None  # memories stay where rollouts are
    assert placement.host_beside(_Accelerator()) == jax.local_devices(backend="cpu")[0]


def test_a_host_that_jax_does_not_use_is_named_only_where_it_was_asked_for(monkeypatch):
    def missing(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", missing)
    assert placement.host_beside(_Accelerator()) is None
    with pytest.raises(ValueError, match="memory.device is 'host', .* add it to JAX_PLATFORMS"):
        placement.place(lambda: jnp.zeros(3), "host", _Accelerator())
