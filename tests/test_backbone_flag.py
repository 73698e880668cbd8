"""One flag moves the binaries from one backbone to another, and wrong ones are explained."""

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from agemem_jax.commands import backbones, export, train
from agemem_jax.models import loading
from agemem_jax.training.monitoring.metrics import read_metrics
from tests.small_models import FAMILIES, write_model
from tests.test_end_to_end import CONFIG, ROOT, run_main

ONE_ITERATION = """
    config.model.init = "pretrained"
    config.warmup.steps = 0
    config.curriculum.schedule = "joint"
    config.curriculum.iterations = (1,)
    config.episode.max_context_tokens = 544
    config.engine.max_length = 560
    config.packing.row_lengths = (560,)
    return config
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.py"
    path.write_text(CONFIG.replace("\n    return config\n", ONE_ITERATION))
    return path


def train_on(backbone, config_file, workdir, *flags):
    run_main(
        train.main, f"--config={config_file}", f"--workdir={workdir}",
        f"--config.backbone={backbone}", *flags,
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_grpo_iteration_runs_on_every_family(family, config_file, tmp_path):
    directory = write_model(tmp_path / "model", family)
    train_on(directory, config_file, tmp_path / "run")
    (line,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert line["steps"] > 0 and line["skipped"] == 0
    assert np.isfinite(line["grad_norm"])  # 0 where all random rollouts failed alike
    assert line["sampling_gap_max"] < 1e-4


def test_a_lora_run_exports_merged_and_as_an_adapter(config_file, tmp_path):
    directory = write_model(tmp_path / "model", "qwen3")
    lora = ("--config.model.lora_rank=2", "--config.model.lora_dropout=0.1")
    train_on(directory, config_file, tmp_path / "run", *lora)
    run = f"--workdir={tmp_path / 'run'}"
    run_main(export.main, run, f"--output={tmp_path / 'merged'}", "--dtype=float32", "--noadapter")
    run_main(export.main, run, f"--output={tmp_path / 'adapter'}", "--adapter")
    merged = loading.load_backbone(str(tmp_path / "merged"), key=None)
    base = loading.load_backbone(str(directory), key=None)
    adapter = safetensors.numpy.load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(directory)
    name = "base_model.model.model.layers.1.self_attn.v_proj"
    change = adapter[f"{name}.lora_B.weight"] @ adapter[f"{name}.lora_A.weight"]
    change *= settings["lora_alpha"] / settings["r"]
    kernels = [m.params["layer_1"]["attention"]["v_proj"]["kernel"] for m in (merged, base)]
    np.testing.assert_allclose(kernels[0] - kernels[1], change.T, atol=1e-6)
    assert np.abs(change).max() > 0
    assert merged.tokenizer.chat_template == base.tokenizer.chat_template


def test_a_full_run_of_tiny_exports_too_and_nothing_is_written_over(config_file, tmp_path):
    train_on("tiny", config_file, tmp_path / "run")
    flags = (f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'out'}", "--noadapter")
    run_main(export.main, *flags)
    exported = loading.load_backbone(str(tmp_path / "out"), key=None)
    assert exported.tokenizer.chat_template
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    ends = [exported.tokenizer.convert_ids_to_tokens(i) for i in generation["eos_token_id"]]
    assert ends == ["<|im_end|>", "<|endoftext|>"]
    with pytest.raises(FileExistsError, match="exists already"):
        run_main(export.main, *flags)
    with pytest.raises(ValueError, match="--adapter needs a run with model.lora_rank"):
        run_main(export.main, *flags[:2], "--adapter")


def test_int8_rollouts_report_how_far_log_probabilities_moved(config_file, tmp_path):
    directory = write_model(tmp_path / "model", "qwen3")
    train_on(directory, config_file, tmp_path / "run", "--config.engine.weights=int8")
    (line,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert 1e-4 < line["sampling_gap_max"] < 0.5


def refusal(directory) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        loading.load_backbone(str(directory), key=None)
    return str(error.value)


def test_directories_that_are_no_model_are_explained(tmp_path):
    directory = write_model(tmp_path / "model", "qwen2")
    whole = (directory / "model.safetensors").read_bytes()
    values = json.loads((directory / "config.json").read_text())

    (directory / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "it may be cut off, so fetch it again" in refusal(directory)
    (directory / "model.safetensors").unlink()
    assert "There is no safetensors file" in refusal(directory)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks model-00001-of-00002.safetensors" in refusal(directory)

    (directory / "config.json").write_text(json.dumps(values | {"vocab_size": 100}))
    assert "token ids up to" in refusal(directory)
    (directory / "config.json").write_text(json.dumps(values | {"eos_token_id": 7}))
    assert "ends texts by token 7" in refusal(directory)
    (directory / "config.json").write_text(json.dumps(values | {"model_type": "mamba"}))
    assert "model_type 'mamba'; the decoder reads llama, mistral" in refusal(directory)
    (directory / "config.json").unlink()
    assert "There is no" in refusal(directory) and "config.json" in refusal(directory)


def test_a_backbone_that_is_nothing_is_refused_before_anything_is_loaded(config_file, tmp_path):
    command = [
        sys.executable, str(ROOT / "experiments" / "train.py"), f"--config={config_file}",
        f"--workdir={tmp_path}", "--config.backbone=qwen9",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert "Error: backbone is 'qwen9', which is neither a directory nor" in result.stderr


def test_the_list_of_backbones_names_them_all_with_their_published_sizes(capsys):
    backbones.main(["backbones"])
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in shown.splitlines() if " M " in line}
    assert set(rows) == set(backbones.BACKBONES)
    # "36 M" is two words, so what follows the number of parameters is one further on.
    assert float(rows["qwen3-4b"][5]) == pytest.approx(4022e6 * 2 / 2**30, rel=2e-3)
    published = {  # millions, by the models' cards
        "smollm2-135m": 134.5, "qwen2.5-7b-instruct": 7616, "qwen3-0.6b": 596, "qwen3-4b": 4022,
        "qwen3-30b-a3b": 30_532, "llama3.2-1b-instruct": 1236, "llama3.1-8b-instruct": 8030,
        "gemma3-1b-it": 1000, "gemma2-2b-it": 2614, "mistral-7b-instruct": 7248,
    }  # fmt: skip
    for name, millions in published.items():
        shown_millions = float(rows[name][2].replace(",", ""))  # whole ones
        assert shown_millions == pytest.approx(millions, rel=2e-3, abs=0.6), name
    assert rows["tiny"][-1] == "shipped"
    assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown
