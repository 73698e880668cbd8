"""The binaries' `main`, on a small configuration: train, kill, resume, evaluate."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import jax
import numpy as np
import pytest
from absl import flags

from agemem_jax.commands import evaluate, train
from agemem_jax.evaluation.evaluate import Evaluator
from agemem_jax.training.checkpoints.checkpoints import Checkpoints
from agemem_jax.training.configuration.run_record import read_config
from agemem_jax.training.interruption import EXIT_STATUS
from agemem_jax.training.monitoring.metrics import read_metrics
from agemem_jax.training.trainer import Trainer

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = """
from experiments.configs import tiny  # as files written for a clone do

def get_config():
    config = tiny.get_config()
    config.model.init = "random"
    config.tasks.options.max_messages = 3
    config.tasks.eval_size = 4
    config.episode.max_context_tokens = 480
    config.episode.max_response_tokens = 16
    config.episode.max_summary_tokens = 8
    config.episode.max_rounds = 1
    config.engine.slots = 4
    config.engine.max_length = 496
    config.engine.attend_buckets = ()
    config.engine.prefill_rows = 4
    config.engine.prefill_buckets = (64,)
    config.packing.row_lengths = (512,)
    config.packing.max_targets = 192
    config.packing.max_microbatches = 8
    config.warmup.steps = 3
    config.warmup.episodes = 6
    config.warmup.batch = 2
    config.curriculum.schedule = "phased"
    config.curriculum.iterations = (2, 2, 2)
    config.curriculum.tasks_per_iteration = 2
    config.curriculum.checkpoint_every = 1
    config.grpo.group_size = 2
    config.evaluation.bootstrap_samples = 100
    return config
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.py"
    path.write_text(CONFIG)
    return path


def command(binary, *arguments):
    return [sys.executable, str(ROOT / "experiments" / binary), *arguments]


def run_main(main, *arguments):
    """Calls a binary's `main` as absl would."""
    command_line, known = ["binary", *arguments], set(flags.FLAGS)
    for name in known:  # what an earlier call was given
        if flags.FLAGS[name].present:
            flags.FLAGS[name].unparse()
    with mock.patch.object(sys, "argv", command_line):  # where overrides of a config are looked up
        rest = flags.FLAGS(command_line)
    for override in set(flags.FLAGS) - known:  # defined by the parse; the next one wants to do so
        delattr(flags.FLAGS, override)
    main(rest)


@pytest.fixture(scope="module")
def finished(config_file, tmp_path_factory):
    """The work directory of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("finished")
    run_main(train.main, f"--config={config_file}", f"--workdir={workdir}")
    return workdir


def final_state(workdir):
    return Trainer(read_config(workdir), workdir).restore()


def test_training_closes_every_phase_with_a_checkpoint_and_writes_metrics(finished):
    phases = {path.name for path in (finished / "checkpoints" / "phases").iterdir()}
    assert phases == {"warmup", "phase1", "phase2", "phase3"}
    lines = read_metrics(finished / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 10))
    grpo = [line for line in lines if line["phase"] != "warmup"]
    assert all(line["sampling_gap_max"] < 1e-4 for line in grpo)
    assert all(line["skipped"] == 0 for line in lines)
    assert list((finished / "tensorboard").glob("events*"))


def contents(folder):
    """Every file under a folder, with what it holds."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_finished_run_says_so_and_changes_nothing(finished, config_file, caplog):
    before = contents(finished)
    run_main(train.main, f"--config={config_file}", f"--workdir={finished}")
    assert "is finished: all iterations are done" in caplog.text
    assert contents(finished) == before


@pytest.mark.parametrize(
    "override, told",
    [
        ("--config.seed=1", "seed is 0 there and 1 now"),
        ("--config.model.lora_rank=4", "model.lora_rank is 0 there"),
        ("--config.backbone=smollm2-135m", "backbone is"),
        ("--config.curriculum.iterations=(3,2,2)", "Phase phase1 of this run has ended after 2"),
        ("--config.curriculum.iterations=(2,2,1)", "Phase phase3 of this run has ended after 2"),
    ],
)
def test_a_refused_start_leaves_a_finished_run_as_it_was(finished, config_file, override, told):
    before = contents(finished)
    with pytest.raises(ValueError) as error:
        run_main(train.main, f"--config={config_file}", f"--workdir={finished}", override)
    assert told in str(error.value)
    assert contents(finished) == before


def test_more_iterations_and_another_batch_continue_a_finished_run(finished, config_file, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "longer")
    record = (workdir / "config.json").read_bytes()
    run_main(
        train.main, f"--config={config_file}", f"--workdir={workdir}",
        "--config.curriculum.iterations=(2,2,3)", "--config.curriculum.tasks_per_iteration=4",
    )  # fmt: skip
    assert (workdir / "config.json").read_bytes() == record
    changed = json.loads((workdir / "config_changes.jsonl").read_text())["changes"]
    assert set(changed) == {"curriculum.iterations", "curriculum.tasks_per_iteration"}
    lines = read_metrics(workdir / "metrics.jsonl")
    assert lines[:-1] == read_metrics(finished / "metrics.jsonl")
    assert (lines[-1]["step"], lines[-1]["phase"], lines[-1]["iteration"]) == (10, "phase3", 3)
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    assert checkpoints.find_phase("phase3").step == 10
    state, _ = Trainer(run_config_of(workdir, (2, 2, 3), 4), workdir).restore()
    assert int(state.step) == 10


def run_config_of(workdir, iterations, tasks):
    config = read_config(workdir)
    curriculum = dataclasses.replace(
        config.curriculum, iterations=iterations, tasks_per_iteration=tasks
    )
    return dataclasses.replace(config, curriculum=curriculum)


def test_a_second_run_of_the_same_seed_gives_the_same_metrics(finished, config_file, tmp_path):
    run_main(train.main, f"--config={config_file}", f"--workdir={tmp_path}")

    def without_timing(workdir):
        lines = read_metrics(workdir / "metrics.jsonl")
        return [{k: v for k, v in line.items() if k != "timing"} for line in lines]

    assert without_timing(tmp_path) == without_timing(finished)


@pytest.mark.parametrize(
    "number, killed_at",
    [
        (signal.SIGKILL, 2), (signal.SIGKILL, 6), (signal.SIGTERM, 5),
    ],
)  # fmt: skip
def test_a_killed_run_ends_with_the_same_parameters(
    finished, config_file, tmp_path, number, killed_at
):
    """SIGKILL in the warm-up and in a phase, at whatever moment follows the given iteration.

    SIGTERM is a request, upon which the run saves and ends with the status that launchers know.
    """
    arguments = (f"--config={config_file}", f"--workdir={tmp_path}")
    log = tmp_path / "stderr.txt"
    with log.open("w") as stderr:
        process = subprocess.Popen(command("train.py", *arguments), stderr=stderr)
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not metrics.exists() or len(read_metrics(metrics)) < killed_at:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait() == (-signal.SIGKILL if number == signal.SIGKILL else EXIT_STATUS)
    run_main(train.main, *arguments)

    (state, position), (expected, end) = final_state(tmp_path), final_state(finished)
    assert position == end
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("seconds", [4, 8, 14])
def test_sigterm_is_heard_within_seconds_while_programs_compile(config_file, tmp_path, seconds):
    """Set-up, compilation of prefill and decode, and that of updates, with nothing cached."""
    arguments = (f"--config={config_file}", f"--workdir={tmp_path / 'run'}")
    cold = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    with (tmp_path / "stderr.txt").open("w") as stderr:
        process = subprocess.Popen(
            command("train.py", *arguments), stderr=stderr, env={**os.environ, **cold}
        )
    time.sleep(seconds)
    process.terminate()
    asked = time.monotonic()
    status = process.wait(timeout=120)
    told = (tmp_path / "stderr.txt").read_text()
    # Before our handler is there, SIGTERM ends Python in its own way.
    assert status in (EXIT_STATUS, -signal.SIGTERM), told
    assert time.monotonic() - asked < 30, told
    assert "Traceback" not in told


def test_a_job_of_two_processes_survives_the_death_of_one(config_file, tmp_path):
    """The launcher starts both again, and the end is that of a run in peace."""
    arguments = ("--kills=1", "--longest=30", f"--workdir={tmp_path}", "--heartbeat_timeout=10")
    run = (f"--config={config_file}", "--config.packing.rows=2")
    done = subprocess.run(
        command("checks/survive_kills.py", *arguments, "--", *run),
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "kills.json").read_text())
    assert len(report["kills"]) == 1
    assert report["differences"] == {"disturbed-1": []}
    assert "starting all processes again" in (tmp_path / "disturbed-1" / "log.txt").read_text()


def titles(workdir):
    return [
        row["title"] for row in json.loads((workdir / "evaluation.json").read_text())["results"]
    ]


def test_an_evaluation_goes_on_where_it_was_stopped_and_keeps_what_others_found(
    finished, tmp_path, monkeypatch, caplog
):
    workdir = shutil.copytree(finished, tmp_path / "evaluated")
    play, played = Evaluator.run, []

    def stop_in_the_second(self, method, episodes, check):
        played.append(method.title)
        if len(played) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return play(self, method, episodes, check)

    monkeypatch.setattr(Evaluator, "run", stop_in_the_second)
    arguments = (f"--workdir={workdir}", "--show=1")
    with pytest.raises(SystemExit) as stopped:
        run_main(evaluate.main, *arguments)
    assert stopped.value.code == EXIT_STATUS
    assert titles(workdir) == ["No-Memory"]

    run_main(evaluate.main, *arguments)
    assert played == [
        "No-Memory", "AgeMem-noRL-RAG", "AgeMem-noRL-RAG", "AgeMem-RAG", "AgeMem-noRL", "AgeMem",
    ]  # fmt: skip
    every = ["No-Memory", "AgeMem-noRL-RAG", "AgeMem-RAG", "AgeMem-noRL", "AgeMem"]
    assert titles(workdir) == every
    results = json.loads((workdir / "evaluation.json").read_text())["results"]
    assert all(row["tasks"] == 4 for row in results)
    weights = [row["settings"]["weights"] for row in results]
    assert weights == ["warmup/3", "warmup/3", "phase3/9", "warmup/3", "phase3/9"]
    for name in ("evaluation.csv", "learning_curve.png", "trajectories.md"):
        assert (workdir / name).stat().st_size > 0

    run_main(evaluate.main, *arguments, "--methods=agemem", "--temperature=0")
    assert titles(workdir) == [*every, "AgeMem"] and len(played) == 7
    run_main(evaluate.main, *arguments, "--methods=agemem_norl,agemem")
    assert len(played) == 7 and "AgeMem is known already" in caplog.text


def test_a_backbone_that_was_never_trained_is_evaluated_by_its_configuration(config_file, tmp_path):
    workdir = tmp_path / "untrained"
    arguments = (f"--config={config_file}", f"--workdir={workdir}")
    with pytest.raises(ValueError, match="agemem plays with weights after reinforcement learning"):
        run_main(evaluate.main, *arguments, "--methods=agemem")
    with pytest.raises(ValueError, match="--config what to evaluate without one"):
        run_main(evaluate.main, f"--workdir={workdir}")
    assert not workdir.exists()
    run_main(evaluate.main, *arguments, "--tasks=2", "--show=1")
    assert titles(workdir) == ["No-Memory", "AgeMem-noRL-RAG", "AgeMem-noRL"]
    assert not (workdir / "config.json").exists()


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--config.grpo.group_size=1"], "at least 2"),
        (["--config.no_such_option=1"], "no_such_option"),
        (["--config.episode.max_context_tokens=100"], "episode.max_context_tokens is 100"),
        (["--config.backbone=gpt-9"], "gpt-9"),
        (
            ["--config.tasks.source=hotpotqa", "--config.tasks.options.manual_dir=nowhere"],
            "nowhere",
        ),
    ],
)
def test_wrong_input_is_told_in_one_sentence(config_file, tmp_path, arguments, told):
    result = subprocess.run(
        command("train.py", f"--config={config_file}", f"--workdir={tmp_path}", *arguments),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert told in last
    assert "Traceback" not in result.stderr
