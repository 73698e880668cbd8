"""The gate that compiles a job for TPUs and GPUs that are not there."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from agemem_jax.planning import gpu_target

ROOT = pathlib.Path(__file__).resolve().parents[2]
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='libtpu compiles for TPUs and is not installed: pip install "jax[tpu]"',
)
needs_plugin = pytest.mark.skipif(
    not gpu_target.is_installed(),
    reason="JAX's plugin for CUDA compiles for GPUs and is not installed: "
    "pip install jax-cuda13-plugin jax-cuda13-pjrt",
)
IN_BFLOAT16 = "--config.model.compute_dtype=bfloat16"
QUICKSTART = "--config=experiments/configs/quickstart.py"


def check(*arguments):
    return subprocess.run(
        [sys.executable, "launch/aot_check.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=500,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@needs_libtpu
def test_the_quickstart_compiles_for_four_chips_and_every_figure_is_told(tmp_path):
    path = tmp_path / "figures.json"
    ended = check(
        QUICKSTART, "--topology=v5e:2x2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2",
        f"--json={path}",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "Fits: tiny on v5e:2x2." in ended.stdout
    report = json.loads(path.read_text())
    assert report["fits"] and report["advice"] is None
    functions = report["functions"]
    assert sorted(functions) == ["decode", "prefill", "score", "update"]
    assert 0 < report["start"]["held"] < functions["decode"]["memory"]["available"]
    for figures in functions.values():
        assert 0 < figures["mfu"] < 1
        assert figures["seconds"] == max(
            figures[f"{name}_seconds"] for name in ("compute", "memory", "network")
        )
    for name in ("score", "update"):  # of one token and slot, XLA writes no products
        counted = functions[name]["costs"]["flops"] * functions[name]["chips"]
        # The update runs forward twice, and kernels compute blocks as a whole: of a row of two
        # blocks half as much again as is seen.
        assert 1 <= counted / functions[name]["model_flops"] < 1.7
    # Parameters are gathered, gradients scattered or summed, heads and hidden units summed.
    assert {"all-gather", "all-reduce"} <= set(functions["update"]["costs"]["collectives"])
    assert functions["prefill"]["costs"]["collectives"]


@needs_plugin
def test_decoding_compiles_for_a_gpu_and_its_kernels_are_told(tmp_path):
    path = tmp_path / "figures.json"
    ended = check(QUICKSTART, IN_BFLOAT16, "--config.engine.idle_slots=0", "--topology=h100:1",
                  "--functions=decode", f"--json={path}")  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "Fits: tiny on h100:1." in ended.stdout
    program = json.loads(path.read_text())["functions"]["decode"]["program"]
    tokens, layers = program["loops"]
    assert (tokens["trips"], layers["trips"]) == (16, 4)
    assert tokens["turn"] == program["turn"]
    assert program["run"]["reads"] == 0  # a chunk of known length
    kernels = sum(program["turn"]["kernels"].values())
    assert f"kernels per decoded token: {kernels}, per layer: {kernels / 4:.1f}" in ended.stdout


@needs_libtpu
def test_a_job_that_does_not_fit_ends_with_1_and_says_what_would_make_it_fit():
    ended = check(QUICKSTART, "--topology=v5e:2x2", "--functions=decode",
                  "--config.engine.slots=8192")  # fmt: skip
    told = " ".join(ended.stdout.split())
    assert ended.returncode == 1, ended.stderr
    assert "decode takes so much memory that the compiler gives up" in told
    assert "of a chip's 15.75 GiB: it would fit with" in told
    assert "engine.slots=4096" in told


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--topology=v4:2x2"], "'v4:2x2'; it must be a chip (v5e, v5p, v6e, h100, h200)"),
        (["--topology=h100:9"], "1 to 8 of h100 in a machine"),
        (["--topology=v5p:4x4"], "v5p chips are joined in 3 dimensions"),
        pytest.param(
            ["--backbone=no-such-model"], "backbone is 'no-such-model'", marks=needs_libtpu
        ),
        pytest.param(
            ["--functions=training"], "--functions names 'training'", marks=needs_libtpu
        ),
        pytest.param(
            ["--config.mesh.fsdp=3"], "does not use up the 16 devices", marks=needs_libtpu
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_a_sentence(arguments, sentence):
    ended = check(QUICKSTART, *arguments)
    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
