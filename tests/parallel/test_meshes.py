"""However devices are laid out and shared by processes, training computes the same."""

import dataclasses
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from agemem_jax.parallel.mesh import MeshConfig
from tests.parallel.small_run import small_config

ROOT = pathlib.Path(__file__).resolve().parents[2]
MESHES = [[8, 1, 1], [2, 2, 2]]
LOOPED = [[1, 2, 4]]
TWO_PROCESSES = [2, 2, 2]


def environment(devices):
    """Of a process with so many devices; compiling takes longest, so machine code is left plain."""
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0",
    }
    return os.environ | settings


def start(devices, settings):
    return subprocess.Popen(
        [sys.executable, str(pathlib.Path(__file__).parent / "small_run.py"), json.dumps(settings)],
        env=environment(devices),
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*jobs):
    for job in jobs:
        _, told = job.communicate()
        assert job.returncode == 0, told[-4000:]


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("meshes")


@pytest.fixture(scope="module")
def results(four_heads, folder):
    """Metrics and final parameters by mesh; "one" is a single device, "two" two processes of four.

    "two of one device" are processes that sample from a policy of which each holds a half.

    "eight, then N" is a run that was interrupted on eight devices and taken up on N, "two
    processes, then one" likewise.
    """
    common = {"model": str(four_heads)}
    meshes = [*MESHES, None]
    eight = {"workdir": str(folder / "a"), "output": str(folder / "a"), "meshes": meshes}
    looped = {"workdir": str(folder / "l"), "output": str(folder / "l"), "meshes": LOOPED}
    finish(start(8, common | eight), start(8, common | looped | {"remat": True}))
    address = f"127.0.0.1:{free_port()}"
    two = {"workdir": str(folder / "b"), "output": str(folder / "b"), "meshes": [TWO_PROCESSES]}
    two |= {"coordinator": address, "count": 2}
    finish(*(start(4, common | two | {"index": index}) for index in range(2)))
    alone = two | {"workdir": str(folder / "d"), "output": str(folder / "d")}
    alone |= {"meshes": [[1, 2, 1]], "coordinator": f"127.0.0.1:{free_port()}"}
    finish(*(start(1, common | alone | {"index": index}) for index in range(2)))
    names = {str(mesh): f"a-{number}" for number, mesh in enumerate(MESHES)}
    names |= {f"{mesh}, layers in a loop": f"l-{number}" for number, mesh in enumerate(LOOPED)}
    names |= {"one": f"a-{len(MESHES)}", "two": "b-0", "two of one device": "d-0"}
    # Interrupted on eight devices, and taken up on two and on one.
    split = {"workdir": str(folder / "c"), "output": str(folder / "c"), "meshes": [[1, 8, 1]]}
    finish(start(8, common | split | {"stop_at": 2}))
    for devices, mesh in ((2, [1, 2, 1]), (1, None)):
        workdir = shutil.copytree(folder / "c", folder / f"c{devices}")
        taken_up = {"workdir": str(workdir), "output": str(workdir), "meshes": [mesh]}
        finish(start(devices, common | taken_up))
        names[f"eight, then {devices}"] = f"c{devices}-0"
    # Interrupted in two processes, which shared its tasks, and taken up by one that plays all.
    shared = alone | {"workdir": str(folder / "e"), "output": str(folder / "e"), "stop_at": 2}
    shared |= {"coordinator": f"127.0.0.1:{free_port()}"}
    finish(*(start(1, common | shared | {"index": index}) for index in range(2)))
    taken_up = {"workdir": str(folder / "e"), "output": str(folder / "e"), "meshes": [None]}
    finish(start(1, common | taken_up))
    names["two processes, then one"] = "e-0"
    return {
        name: (
            json.loads((folder / f"{file}.json").read_text()),
            dict(np.load(folder / f"{file}.npz")),
        )
        for name, file in names.items()
    }


@pytest.mark.parametrize(
    "name",
    [
        *map(str, MESHES), *(f"{mesh}, layers in a loop" for mesh in LOOPED), "two",
        "two of one device", "eight, then 2", "eight, then 1",
        "two processes, then one",
    ],
)  # fmt: skip
def test_losses_and_parameters_are_those_of_one_device(results, name):
    """Two GRPO iterations behind a step of warm-up, rollouts included, in float32."""
    (lines, params), (expected_lines, expected) = results[name], results["one"]
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line, wanted in zip(lines, expected_lines, strict=True):
        for value in (
            "loss", "reward", "kl", "steps", "tc/Add_memory", "sampled_tokens", "target_tokens",
            "learning_rate", "updates",
        ):  # fmt: skip
            assert (value in line) == (value in wanted)
            if value in line:
                assert line[value] == pytest.approx(wanted[value], abs=1e-5), value
        # From Adam's first step on, parameters differ by some 1e-6, and gradients by more.
        near = {"abs": 1e-5} if line["step"] == 1 else {"rel": 1e-4}
        assert line["grad_norm"] == pytest.approx(wanted["grad_norm"], **near)
    for path, array in expected.items():
        np.testing.assert_allclose(params[path], array, rtol=0, atol=1e-5, err_msg=path)


def test_the_iterations_move_the_parameters(results, four_heads):
    """Or the comparison would hold for any program that does nothing."""
    lines, _ = results["one"]
    assert all(line["grad_norm"] > 1e-3 and not line["skipped"] for line in lines)


def test_an_evaluation_finds_the_same_on_every_number_of_devices(results, four_heads, folder):
    found = []
    for devices in (1, 4):
        workdir = shutil.copytree(folder / "a" / str(len(MESHES)), folder / f"evaluated-{devices}")
        config = small_config(str(four_heads), None)
        config = dataclasses.replace(config, mesh=MeshConfig(tensor=2))  # as if trained so
        (workdir / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
        ended = subprocess.run(
            [sys.executable, "experiments/evaluate.py", f"--workdir={workdir}", "--tasks=6",
             "--methods=agemem_norl,agemem"],
            cwd=ROOT, env=environment(devices), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr[-4000:]
        results = json.loads((workdir / "evaluation.json").read_text())["results"]
        assert all(each.pop("timing") for each in results)  # of this machine
        found.append(results)
    assert found[0] == found[1]
    assert (workdir / "trajectories.md").read_text().count("\n") > 20
