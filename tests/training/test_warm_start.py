"""A run that begins with weights of before: of another run, or of a PEFT adapter."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from agemem_jax.models import adapter_import, decoder, hf_export
from agemem_jax.training import components, policy, train_state, warm_start
from agemem_jax.training.checkpoints.checkpoints import Checkpoints
from agemem_jax.training.configuration import run_record
from tests.training.small_job import small_config


@pytest.fixture(scope="module")
def full():
    return small_config("tiny")


@pytest.fixture(scope="module")
def lora():
    return small_config("tiny", lora_rank=2, lora_alpha=8.0, lora_targets=("q_proj", "up_proj"))


def from_warm(config, text):
    return dataclasses.replace(config, warm_start=text)


def begin(config):
    backbone = components.build_backbone(config, with_params=False)

    def create(params):
        return train_state.create(
            backbone.config, params, config.rl_optimizer, keep_reference=True,
            key=jax.random.key(config.seed), donate=True,
        )  # fmt: skip

    return warm_start.begin(config, backbone, None, create)


def moved(state, by):
    return state.replace(trainable=jax.tree.map(lambda x: x + by, state.trainable))


def write_run(config, workdir):
    """Checkpoints at steps 1 and 2, the end of a phase at 2, and the best at 1."""
    run_record.write(config, workdir, 0)
    state = begin(config)
    checkpoints = Checkpoints(workdir / "checkpoints", config=config)
    for step in (1, 2):
        checkpoints.save(step, moved(state, 0.01 * step))
    checkpoints.save(2, moved(state, 0.02), phase_end="joint")
    checkpoints.save_best(1, moved(state, 0.01), {"metric": "success", "value": 0.5})
    checkpoints.close()
    return state


@pytest.fixture(scope="module")
def full_run(full, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("full")
    return workdir, write_run(full, workdir)


@pytest.fixture(scope="module")
def lora_run(lora, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("lora")
    return workdir, write_run(lora, workdir)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
    ("name", "by"),
    [("", 0.02), ("@last", 0.02), ("@best", 0.01), ("@1", 0.01), ("@joint", 0.02),
     ("@joint/2", 0.02), ("@step/1", 0.01)],
)  # fmt: skip
def test_weights_are_those_of_the_checkpoint_and_the_rest_begins_anew(full, full_run, name, by):
    workdir, before = full_run
    state = begin(from_warm(full, f"{workdir}{name}"))
    assert_same(state.trainable, moved(before, by).trainable)
    assert_same(state.reference, state.trainable)  # the KL term holds to what it began with
    assert int(state.step) == 0
    assert_same(state.opt_state, before.opt_state)


def test_with_lora_the_reference_stays_the_backbone(lora, lora_run):
    workdir, before = lora_run
    state = begin(from_warm(lora, f"{workdir}@best"))
    assert_same(state.trainable, moved(before, 0.01).trainable)
    assert_same(state.reference, before.reference)
    assert_same(state.frozen, before.frozen)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("@7", "There is no checkpoint '7' in .*; there are last, best .step 1., joint .step 2., "
               "the steps 1, 2."),
        ("@phase3", "There is no checkpoint 'phase3'"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(full, full_run, name, told):
    with pytest.raises(ValueError, match=told):
        begin(from_warm(full, f"{full_run[0]}{name}"))


def test_what_does_not_fit_is_refused_in_one_sentence(full, lora, full_run, lora_run, tmp_path):
    with pytest.raises(ValueError, match="a run with model.lora_rank 2, and here it is 0"):
        begin(from_warm(full, str(lora_run[0])))
    other = small_config("tiny", lora_rank=2, lora_alpha=4.0, lora_targets=("q_proj", "up_proj"))
    with pytest.raises(ValueError, match="a run with model.lora_alpha 8.0, and here it is 4.0"):
        begin(from_warm(other, str(lora_run[0])))
    random = dataclasses.replace(lora, model=dataclasses.replace(lora.model, init="random"))
    with pytest.raises(ValueError, match="trained beside other base weights"):
        begin(from_warm(random, str(lora_run[0])))
    with pytest.raises(ValueError, match="neither the checkpoints of a run nor a PEFT adapter"):
        begin(from_warm(full, str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="a model directory is given as backbone"):
        begin(from_warm(full, str(tmp_path)))


def test_the_policy_before_rl_is_what_the_run_began_with(full, full_run, tmp_path):
    workdir, before = full_run
    config = from_warm(full, f"{workdir}@best")
    backbone = components.build_backbone(config)
    weights = policy.restore_weights(config, backbone, tmp_path, trained=False)
    assert_same(weights.params, moved(before, 0.01).trainable)
    assert policy.describe_weights(config, tmp_path, trained=False) == f"{workdir}@best"


def test_any_checkpoint_is_read_by_its_name(full, full_run):
    workdir, before = full_run
    backbone = components.build_backbone(full)
    for name, by, title in (("best", 0.01, "best/1"), ("1", 0.01, "step/1"), ("last", 0.02, None)):
        weights = policy.restore_weights(full, backbone, workdir, checkpoint=name)
        assert_same(weights.params, moved(before, by).trainable)
        told = policy.describe_weights(full, workdir, trained=True, checkpoint=name)
        assert title is None or told == title


def test_the_option_stands_in_the_record_and_cannot_be_changed_later(full, tmp_path):
    config = from_warm(full, "elsewhere")
    assert run_record.from_values(run_record.as_values(config)).warm_start == "elsewhere"
    run_record.write(config, tmp_path, 0)
    with pytest.raises(ValueError, match='warm_start is "elsewhere" there and null now'):
        run_record.check(full, tmp_path)
    values = run_record.as_values(full)
    for name in ("warm_start", "validation", "samples", "metrics"):  # as of before
        del values[name]
    assert run_record.from_values(values) == full


# PEFT adapters.


@pytest.fixture(scope="module")
def exported(lora, lora_run, tmp_path_factory):
    """An adapter that this library has written, and its matrices."""
    folder = tmp_path_factory.mktemp("adapter") / "made"
    model = components.build_backbone(lora, with_params=False).config
    matrices = moved(lora_run[1], 0.05).trainable
    hf_export.export_adapter(folder, model, matrices, base_model="tiny")
    return folder, matrices


def test_an_exported_adapter_comes_back_and_computes_the_same(lora, exported):
    folder, matrices = exported
    state = begin(from_warm(lora, str(folder)))
    assert_same(state.trainable, matrices)
    model = components.build_backbone(lora, with_params=False).config
    model = dataclasses.replace(model, backend="plain")
    forward = jax.jit(functools.partial(decoder.forward, model))

    def hidden(lora_matrices):
        weights = train_state.combine(lora_matrices, state.frozen)
        return np.asarray(forward(weights, np.arange(3, 10)[None], np.arange(7)[None]))

    np.testing.assert_array_equal(hidden(state.trainable), hidden(matrices))
    assert np.abs(hidden(matrices) - hidden(state.reference)).max() > 1e-3


def write_adapter(folder, lora, values=(), drop=(), shape=None, dtype=np.float32):
    """A directory with the names that PEFT gives, written by hand."""
    folder.mkdir(exist_ok=True)
    model = components.build_backbone(lora, with_params=False).config
    width, head, ffn = model.width, model.num_heads * model.head_dim, model.ffn_width
    rng = np.random.default_rng(5)
    tensors = {}
    for layer in range(model.num_layers):
        for module, outputs in (("self_attn.q_proj", head), ("mlp.up_proj", ffn)):
            stem = f"base_model.model.model.layers.{layer}.{module}"
            a, b = rng.normal(size=(2, width)), rng.normal(size=(outputs, 2))
            tensors[f"{stem}.lora_A.weight"] = a.astype(dtype)
            tensors[f"{stem}.lora_B.weight"] = b.astype(dtype)
    for name in drop:
        del tensors[name]
    if shape is not None:
        tensors[shape] = np.zeros((2, 3), dtype)
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"],
        "base_model_name_or_path": "tiny", "bias": "none", "use_dora": False, **dict(values),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return tensors


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_an_adapter_with_pefts_names_is_read(lora, tmp_path, dtype):
    tensors = write_adapter(tmp_path / "peft", lora, dtype=dtype)
    state = begin(from_warm(lora, str(tmp_path / "peft")))
    stem = "base_model.model.model.layers.1.mlp.up_proj"
    pair = state.trainable["layer_1"]["mlp"]["up_proj"]
    np.testing.assert_array_equal(pair["a"], tensors[f"{stem}.lora_A.weight"].T)
    np.testing.assert_array_equal(pair["b"], tensors[f"{stem}.lora_B.weight"].T)
    assert pair["a"].dtype == np.float32


_NAME = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"values": {"r": 4}}, "has rank 4, alpha 8 and the targets q_proj, up_proj, and this run "
                               "rank 2.*set model.lora_rank=4"),
        ({"values": {"lora_alpha": 16}}, "alpha 16 .*model.lora_alpha=16.0"),
        ({"values": {"peft_type": "IA3"}}, "of the type 'IA3'; it must be LORA"),
        ({"values": {"use_dora": True}}, "has use_dora True, which the decoder does not compute"),
        ({"values": {"bias": "all"}}, "has bias 'all'"),
        ({"drop": [_NAME]}, f"has no {_NAME}"),
        ({"shape": _NAME}, r"lora_A.weight of .* is \[2, 3\]; a model of this shape needs \[2, "),
        ({"shape": _NAME.replace("layers.0", "layers.99")}, "layers.99.* has no place for"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_is_refused_in_one_sentence(lora, tmp_path, changes, told):
    write_adapter(tmp_path / "peft", lora, **changes)
    with pytest.raises(ValueError, match=told):
        begin(from_warm(lora, str(tmp_path / "peft")))


def test_an_adapter_is_refused_without_lora_without_its_file_and_with_a_checkpoint(
    lora, full, tmp_path
):
    folder = tmp_path / "peft"
    write_adapter(folder, lora)
    with pytest.raises(ValueError, match="this run rank 0"):
        begin(from_warm(full, str(folder)))
    with pytest.raises(ValueError, match="an adapter has no checkpoints; name .*peft alone"):
        begin(from_warm(lora, f"{folder}@best"))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no adapter_model.safetensors; save it with"):
        begin(from_warm(lora, str(folder)))


def test_an_adapter_inside_a_model_that_reads_images_is_read(lora, tmp_path):
    tensors = write_adapter(tmp_path / "peft", lora)
    inside = {k.replace("model.layers", "model.language_model.layers"): v for k, v in
              tensors.items()}  # fmt: skip
    safetensors.numpy.save_file(inside, tmp_path / "peft" / "adapter_model.safetensors")
    model = components.build_backbone(lora, with_params=False).config
    found = adapter_import.read_lora(tmp_path / "peft", model)
    np.testing.assert_array_equal(
        found["layer_0"]["mlp"]["up_proj"]["a"],
        tensors["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"].T,
    )
