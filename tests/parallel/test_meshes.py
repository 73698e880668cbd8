"""However devices are laid out and shared by processes, training computes the same."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MESHES = [[8, 1, 1], [1, 8, 1], [2, 2, 2], [1, 2, 4]]
LOOPED = [[1, 8, 1], [2, 2, 2]]
TWO_PROCESSES = [2, 2, 2]


def start(devices, settings):
    return subprocess.Popen(
        [sys.executable, str(pathlib.Path(__file__).parent / "small_run.py"), json.dumps(settings)],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "PYTHONPATH": str(ROOT),
        },
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
def results(four_heads, tmp_path_factory):
    """Metrics and final parameters by mesh; "one" is a single device, "two" two processes.

    "eight, then N" is a run that was interrupted on eight devices and taken up on N.
    """
    folder = tmp_path_factory.mktemp("meshes")
    common = {"model": str(four_heads)}
    meshes = [*MESHES, None]
    eight = {"workdir": str(folder / "a"), "output": str(folder / "a"), "meshes": meshes}
    looped = {"workdir": str(folder / "l"), "output": str(folder / "l"), "meshes": LOOPED}
    finish(start(8, common | eight), start(8, common | looped | {"remat": True}))
    address = f"127.0.0.1:{free_port()}"
    two = {"workdir": str(folder / "b"), "output": str(folder / "b"), "meshes": [TWO_PROCESSES]}
    two |= {"coordinator": address, "count": 2}
    finish(*(start(4, common | two | {"index": index}) for index in range(2)))
    names = {str(mesh): f"a-{number}" for number, mesh in enumerate(MESHES)}
    names |= {f"{mesh}, layers in a loop": f"l-{number}" for number, mesh in enumerate(LOOPED)}
    names |= {"one": f"a-{len(MESHES)}", "two": "b-0"}
    # Interrupted on eight devices, and taken up on two and on one.
    split = {"workdir": str(folder / "c"), "output": str(folder / "c"), "meshes": [[1, 8, 1]]}
    finish(start(8, common | split | {"stop_at": 2}))
    for devices, mesh in ((2, [1, 2, 1]), (1, None)):
        workdir = shutil.copytree(folder / "c", folder / f"c{devices}")
        taken_up = {"workdir": str(workdir), "output": str(workdir), "meshes": [mesh]}
        finish(start(devices, common | taken_up))
        names[f"eight, then {devices}"] = f"c{devices}-0"
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
        "eight, then 2", "eight, then 1",
    ],
)  # fmt: skip
def test_losses_and_parameters_are_those_of_one_device(results, name):
    """Two GRPO iterations behind a step of warm-up, rollouts included, in float32."""
    (lines, params), (expected_lines, expected) = results[name], results["one"]
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line, wanted in zip(lines, expected_lines, strict=True):
        for value in ("loss", "grad_norm", "reward", "kl", "steps", "calls/Add_memory"):
            assert (value in line) == (value in wanted)
            if value in line:
                assert line[value] == pytest.approx(wanted[value], abs=1e-5), value
    for path, array in expected.items():
        np.testing.assert_allclose(params[path], array, rtol=0, atol=1e-5, err_msg=path)


def test_the_iterations_move_the_parameters(results, four_heads):
    """Or the comparison would hold for any program that does nothing."""
    lines, _ = results["one"]
    assert all(line["grad_norm"] > 1e-3 and not line["skipped"] for line in lines)
