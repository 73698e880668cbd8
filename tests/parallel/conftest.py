"""The `tiny` policy with twice its heads, so that a tensor axis of four has what to split."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import pytest

from agemem_jax.models import hf_export, loading


@pytest.fixture(scope="session")
def four_heads(tmp_path_factory):
    """A directory with a model that computes what `tiny` does: each head stands in it twice."""
    backbone = loading.load_backbone("tiny", key=jax.random.key(0))
    flat = flax.traverse_util.flatten_dict(backbone.params)
    for path, value in flat.items():
        if {"q_proj", "k_proj", "v_proj"} & set(path):
            flat[path] = jnp.concatenate([value, value], axis=1)
        elif "o_proj" in path:
            flat[path] = jnp.concatenate([value, value]) / 2
    config = backbone.config
    config = type(config)(**{**vars(config), "num_heads": 4, "num_kv_heads": 4})
    directory = tmp_path_factory.mktemp("four_heads")
    stop_id = backbone.tokenizer.convert_tokens_to_ids("<|im_end|>")
    hf_export.export_model(
        directory, config, flax.traverse_util.unflatten_dict(flat), backbone.tokenizer,
        stop_id=stop_id, dtype="float32",
    )  # fmt: skip
    return directory
