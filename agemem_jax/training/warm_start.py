"""Weights that a run begins with instead of its backbone's own.

`warm_start` names one of

    DIR             the newest checkpoint of the run in the work directory DIR
    DIR@NAME        any other: best, last, a step, a phase, or phase/step
    ADAPTER         a PEFT adapter directory, for a run with LoRA

Only weights are taken: the optimiser, the data and the random keys begin anew. With LoRA the
reference policy of the KL term stays the backbone without matrices; without LoRA it is what
the run begins with. A model directory is no warm start, but a backbone.
"""

import os
from collections.abc import Callable

import jax
from absl import logging
from etils import epath
from jax.sharding import Mesh, SingleDeviceSharding
from jaxtyping import PyTree

from agemem_jax.models import adapter_import, decoder
from agemem_jax.models.config import DecoderConfig
from agemem_jax.models.loading import Backbone
from agemem_jax.models.registry import BACKBONES
from agemem_jax.parallel import arrays
from agemem_jax.training import train_state
from agemem_jax.training.checkpoints.parts import CheckpointInfo
from agemem_jax.training.checkpoints.reader import CheckpointReader
from agemem_jax.training.configuration import run_record
from agemem_jax.training.configuration.run_config import RunConfig
from agemem_jax.training.train_state import TrainState

# What must be as it was, so that matrices and parameters mean what they meant.
_COMPARED = ("backbone", "model.lora_rank", "model.lora_alpha", "model.lora_targets")


def begin(
    config: RunConfig,
    backbone: Backbone,
    mesh: Mesh | None,
    create: Callable[[PyTree], TrainState],
) -> TrainState:
    """The state that a run starts from.

    Args:
      config: of the run.
      backbone: of which the base parameters are read, where they are needed.
      mesh: of training; None for a single device.
      create: makes the state from base parameters, which it may keep.

    Raises:
      ValueError: the weights to begin with do not fit the run, or are not there.
    """
    if config.warm_start is None:
        return create(backbone.read_params())
    read, compare = _open(config, backbone.config)
    model = backbone.config
    if not model.lora_rank:
        return create(read(_template(model, mesh)))
    weights = read(_template(model, mesh))
    state = create(backbone.read_params())
    compare(state.frozen)
    arrays.delete(state.trainable)
    return state.replace(trainable=weights)


def read_weights(config: RunConfig, model: DecoderConfig, template: PyTree) -> PyTree:
    """What a run with a warm start trains, before it has: all parameters, or LoRA matrices.

    Args:
      config: of the run.
      model: of its decoder.
      template: shapes, with where each array goes.

    Raises:
      ValueError: see `begin`.
    """
    read, _ = _open(config, model)
    return read(template)


def _template(model: DecoderConfig, mesh: Mesh | None) -> PyTree:
    part = decoder.abstract_lora(model) if model.lora_rank else decoder.abstract_params(model)
    if mesh is None:
        alone = SingleDeviceSharding(jax.local_devices()[0])
        return arrays.abstract(part, jax.tree.map(lambda _: alone, part))
    place = train_state.lora_shardings if model.lora_rank else train_state.param_shardings
    return arrays.abstract(part, place(model, mesh))


def _open(config: RunConfig, model: DecoderConfig):
    """(reads the weights into a template, compares base parameters with those of before)."""
    text = config.warm_start
    folder, at, name = text.rpartition("@")
    if not at or os.path.isdir(text):
        folder, name = text, "last"
    if adapter_import.is_adapter(folder):
        return _open_adapter(config, model, folder, name if folder != text else None)
    if not (epath.Path(folder) / "checkpoints").is_dir():
        hint = ""
        if (epath.Path(folder) / "config.json").exists():
            hint = "; a model directory is given as backbone"
        raise ValueError(
            f"warm_start is {text!r}, but {folder} holds neither the checkpoints of a run nor a "
            f"PEFT adapter (adapter_config.json){hint}."
        )
    _compare_runs(config, folder)
    reader = CheckpointReader(epath.Path(folder) / "checkpoints")
    try:
        info = reader.find(name)
    except ValueError as error:
        raise ValueError(f"warm_start is {text!r}: {error}") from error
    logging.info("Starting from the weights of %s", info.path)

    def read(template: PyTree) -> PyTree:
        return reader.restore_trainable(info, template)

    def compare(frozen: PyTree) -> None:
        _compare_bases(reader, info, frozen)

    return read, compare


def _open_adapter(config: RunConfig, model: DecoderConfig, folder: str, name: str | None):
    if name is not None:
        raise ValueError(
            f"warm_start is {config.warm_start!r}, but an adapter has no checkpoints; name {folder}"
            " alone."
        )
    adapter = adapter_import.read_config(folder)
    adapter.check(model)
    spec = BACKBONES.get(config.backbone)
    names = {config.backbone, *([spec.repository] if spec and spec.repository else [])}
    if adapter.base_model not in names:
        logging.warning(
            "The adapter in %s says that it was made for %s, and this run trains %s.", folder,
            adapter.base_model, config.backbone,
        )  # fmt: skip
    logging.info("Starting from the adapter in %s", folder)

    def read(template: PyTree) -> PyTree:
        lora = adapter_import.read_lora(folder, model)
        return arrays.place(lora, jax.tree.map(lambda leaf: leaf.sharding, template))

    return read, lambda frozen: None


def _compare_runs(config: RunConfig, folder: str) -> None:
    """Raises ValueError where another model, or another part of one, was trained in `folder`."""
    values = run_record.as_values(run_record.read_config(folder))
    ours = run_record.as_values(config)
    for name in _COMPARED:
        group, _, option = name.partition(".")
        there, here = values[group], ours[group]
        if option:
            there, here = there[option], here[option]
        if there != here:
            raise ValueError(
                f"warm_start is {config.warm_start!r}, a run with {name} {there!r}, and here it is "
                f"{here!r}; the weights of one do not fit the other."
            )


def _compare_bases(reader: CheckpointReader, info: CheckpointInfo, frozen: PyTree) -> None:
    """Raises ValueError where LoRA matrices were trained beside other base parameters."""
    if not reader.has_base(info, frozen):
        raise ValueError(
            f"The checkpoint {info.path} of warm_start was trained beside other base weights than "
            "those of this run (another backbone, seed of a random one, or model.param_dtype)."
        )
