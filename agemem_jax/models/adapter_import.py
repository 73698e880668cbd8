"""Reads a PEFT adapter directory as our LoRA matrices: the inverse of `export_adapter`."""

import dataclasses
import json
import os
import pathlib
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import safetensors
from jaxtyping import PyTree

from agemem_jax.models import decoder
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.hf_names import lora_module

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_INSIDE = ("", "language_model.")  # where a model that reads images has its text model
_OURS = {"a": "lora_A", "b": "lora_B"}
# Kinds of LoRA that compute something else than ours; what each is where it is not used.
_PLAIN = {
    "use_dora": (False,), "use_rslora": (False,), "rank_pattern": ({},), "alpha_pattern": ({},),
    "modules_to_save": ([],), "bias": ("none",), "lora_bias": (False,), "fan_in_fan_out": (False,),
    "trainable_token_indices": ([],), "target_parameters": ([],),
}  # fmt: skip


def is_adapter(directory: str | os.PathLike) -> bool:
    """Whether there is a PEFT adapter."""
    return (pathlib.Path(directory) / _CONFIG).is_file()


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What is told of an adapter.

    Attributes:
      directory: where it is.
      rank, alpha: its scale is alpha / rank.
      targets: projections with matrices, those of the tensors that are there.
      base_model: that it was made for.
    """

    directory: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    base_model: str

    def check(self, config: DecoderConfig) -> None:
        """Compares an adapter with the LoRA matrices of a decoder.

        Raises:
          ValueError: in one sentence that names the options to set.
        """
        theirs = (self.rank, self.alpha, sorted(self.targets))
        ours = (config.lora_rank, config.lora_alpha, sorted(config.lora_targets))
        if theirs != ours:
            raise ValueError(
                f"The adapter in {self.directory} has rank {theirs[0]}, alpha {theirs[1]:g} and "
                f"the targets {', '.join(theirs[2])}, and this run rank {ours[0]}, alpha "
                f"{ours[1]:g} and the targets {', '.join(ours[2])}; set model.lora_rank="
                f"{self.rank}, model.lora_alpha={self.alpha} and model.lora_targets="
                f"{self.targets}."
            )


def read_config(directory: str | os.PathLike) -> Adapter:
    """What an adapter directory tells of itself.

    Raises:
      ValueError: it is no LoRA adapter, of a kind that is not known here, or incomplete.
    """
    folder = pathlib.Path(directory)
    try:
        values = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / _CONFIG} cannot be read: {error}") from error
    if values.get("peft_type") != "LORA":
        raise ValueError(
            f"The adapter in {folder} is of the type {values.get('peft_type')!r}; it must be LORA."
        )
    for name, plain in _PLAIN.items():
        if values.get(name) not in (None, *plain):
            raise ValueError(
                f"The adapter in {folder} has {name} {values[name]!r}, which the decoder does not "
                f"compute; it must be {plain[0]!r}."
            )
    if not (folder / _WEIGHTS).is_file():
        raise ValueError(
            f"The adapter in {folder} has no {_WEIGHTS}; save it with safe_serialization=True."
        )
    with safetensors.safe_open(folder / _WEIGHTS, "np") as file:
        modules = {name.rsplit(".lora_", 1)[0] for name in file.keys()}  # noqa: SIM118
    targets = tuple(sorted({module.rsplit(".", 1)[-1] for module in modules}))
    base = str(values.get("base_model_name_or_path"))
    return Adapter(os.fspath(directory), values["r"], float(values["lora_alpha"]), targets, base)


def read_lora(directory: str | os.PathLike, config: DecoderConfig) -> PyTree:
    """The matrices of an adapter in float32, as `decoder.init_lora` lays them out.

    Args:
      directory: of the adapter.
      config: of the decoder, with the adapter's rank and targets (`Adapter.check`).

    Raises:
      ValueError: a matrix is missing, too many, or of another shape.
    """
    wanted = flax.traverse_util.flatten_dict(decoder.abstract_lora(config), sep="/")
    path = pathlib.Path(directory) / _WEIGHTS
    with safetensors.safe_open(path, "np") as file:
        there = set(file.keys())
        inside = next((i for i in _INSIDE if f"{_stem(next(iter(wanted)), i)}" in there), "")
        found: dict[str, Any] = {}
        for ours, leaf in wanted.items():
            name = _stem(ours, inside)
            if name not in there:
                raise ValueError(f"{path} has no {name}, which a model of this shape needs.")
            matrix = np.asarray(_as_float(file, name)).T
            if matrix.shape != leaf.shape:
                raise ValueError(
                    f"{name} of {path} is {list(matrix.T.shape)}; a model of this shape needs "
                    f"{list(leaf.shape[::-1])}."
                )
            found[ours] = jnp.asarray(np.ascontiguousarray(matrix))
    extra = sorted(there - {_stem(ours, inside) for ours in wanted})
    if extra:
        raise ValueError(f"{path} has {extra[0]}, which a model of this shape has no place for.")
    return flax.traverse_util.unflatten_dict(found, sep="/")


def _stem(ours: str, inside: str) -> str:
    """The tensor that holds our matrix at a path such as "layer_0/mlp/up_proj/a"."""
    module, _, matrix = ours.rpartition("/")
    return f"base_model.model.{lora_module(module, inside=inside)}.{_OURS[matrix]}.weight"


def _as_float(file: Any, name: str) -> np.ndarray:
    return file.get_tensor(name).astype(np.float32)
