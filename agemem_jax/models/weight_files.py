"""Parameters of a decoder in a safetensors file, by slash-separated names."""

import os

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PyTree


def save_params(path: str | os.PathLike, params: PyTree) -> None:
    """Writes float32 parameters; names are those of the tree."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    arrays = {name: np.asarray(jax.device_get(value)) for name, value in flat.items()}
    safetensors.numpy.save_file(arrays, os.fspath(path))


def load_params(path: str | os.PathLike, like: PyTree) -> PyTree:
    """Reads parameters with the structure and shapes of `like`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, or names or shapes differ; the sentence lists them.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no weight file {os.fspath(path)}.")
    try:
        stored = safetensors.numpy.load_file(os.fspath(path))
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{os.fspath(path)} cannot be read as safetensors ({error}); it may be cut off."
        ) from error
    wanted = flax.traverse_util.flatten_dict(like, sep="/")
    wrong = [f"{name} is missing" for name in sorted(set(wanted) - set(stored))]
    wrong += [f"{name} is unknown" for name in sorted(set(stored) - set(wanted))]
    wrong += [
        f"{name} has shape {stored[name].shape} instead of {wanted[name].shape}"
        for name in sorted(set(wanted) & set(stored))
        if stored[name].shape != wanted[name].shape
    ]
    if wrong:
        raise ValueError(f"{os.fspath(path)} does not fit the model: {'; '.join(wrong)}.")
    arrays = {name: jnp.asarray(stored[name], jnp.float32) for name in wanted}
    return flax.traverse_util.unflatten_dict(arrays, sep="/")
