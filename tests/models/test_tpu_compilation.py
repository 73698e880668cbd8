"""Rollouts and updates compile for TPUs that are not there, kernels included.

Needs libtpu, which compiles for a described topology without a device:
`pip install "jax[tpu]"`, and `JAX_PLATFORMS=cpu` where there is no TPU. What the kernels
compute is tested interpreted, beside this file.
"""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import pytest

from agemem_jax.models import decoder, kv_cache
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.decoder import Weights
from agemem_jax.planning import ahead_of_time
from agemem_jax.planning.chips import Topology
from agemem_jax.rollout import decoding

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='libtpu compiles for TPUs and is not installed: pip install "jax[tpu]"',
)
CONFIG = DecoderConfig(
    vocab_size=512, num_layers=2, width=256, num_heads=4, num_kv_heads=2, head_dim=64,
    ffn_width=512, backend="tpu",
)  # fmt: skip
FAMILIES = {
    "plain": {},
    "bfloat16": {"compute_dtype": "bfloat16"},
    "softcap": {"attention_softcap": 30.0},
    "window": {"windows": (128, 0)},
}
SLOTS, LENGTH, CHUNK = 8, 512, 4


@pytest.fixture(scope="module")
def device():
    """One chip of an abstract v5e."""
    return ahead_of_time.devices(Topology.parse("v5e:2x2"))[0]


def arguments(device, *make):
    """What `make` would make, on `device`."""
    sharding = jax.sharding.SingleDeviceSharding(device)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        [jax.eval_shape(each) for each in make],
    )


def weights_of(config):
    return lambda: Weights(decoder.init_params(config, jax.random.key(0)))


@pytest.mark.parametrize("change", FAMILIES.values(), ids=FAMILIES)
def test_a_chunk_of_decoding_compiles_with_its_kernel(device, change):
    config = dataclasses.replace(CONFIG, **change)

    def state():
        return decoding.DecodeState.idle(SLOTS)

    def cache():
        return kv_cache.init_cache(config, SLOTS, LENGTH, jnp.dtype(config.compute_dtype))

    lowered = decoding.decode_chunk.lower(
        config, *arguments(device, weights_of(config), cache, state), None,
        parts=1, chunk=CHUNK, idle_slots=2, stop_ids=(2,),
    )  # fmt: skip
    text = lowered.compile().as_text()
    assert text.count("tpu_custom_call") >= config.num_layers


@pytest.mark.parametrize("change", FAMILIES.values(), ids=FAMILIES)
def test_gradients_of_packed_rows_behind_a_prefix_compile_with_their_kernels(device, change):
    config = dataclasses.replace(CONFIG, **change)

    def rows():
        return jnp.zeros((2, 384), jnp.int32)

    def prefix():
        return jnp.zeros(100, jnp.int32)

    def gradients(weights, tokens, positions, visible_to, prefix):
        def loss(weights):
            hidden = decoder.forward(config, weights, tokens, positions, visible_to, prefix)
            return jnp.sum(hidden.astype(jnp.float32) ** 2)

        return jax.grad(loss)(weights)

    given = arguments(device, weights_of(config), rows, rows, rows, prefix)
    text = jax.jit(gradients).lower(*given).compile().as_text()
    assert text.count("tpu_custom_call") >= 3 * config.num_layers  # forward, and two backward
