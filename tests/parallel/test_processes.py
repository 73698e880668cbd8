"""Processes of one job tell each other values, wait for each other, and notice a death."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from agemem_jax.parallel import processes
from tests.parallel.test_meshes import free_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEARTBEAT = 10
_START = f"""
import sys, time
from agemem_jax.parallel import processes
port, index = sys.argv[1], int(sys.argv[2])
processes.initialize("127.0.0.1:" + port, 2, index, {HEARTBEAT})
"""


def start(program):
    port = str(free_port())
    return [
        subprocess.Popen(
            [sys.executable, "-c", _START + program, port, str(index)],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def test_every_process_gets_what_each_one_gave_however_late_it_came():
    jobs = start(
        """
time.sleep(3 * index)
print(processes.gather({"text": "x" * (2000 * index), "index": index})[1]["text"] == "x" * 2000)
print(processes.gather(None), processes.is_primary())
"""
    )
    told = [job.communicate(timeout=120)[0].splitlines()[-2:] for job in jobs]
    assert told == [["True", "[None, None] True"], ["True", "[None, None] False"]]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_whose_peer_died_ends_within_the_heartbeat(killed):
    jobs = start('print("ready", flush=True)\ntime.sleep(1 + 1000 * index)\nprocesses.gather(1)\n')
    for job in jobs:
        assert "ready" in job.stdout.readline()
    jobs[killed].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    assert jobs[1 - killed].wait(timeout=60) != 0
    assert time.monotonic() - begun < HEARTBEAT + 15
    for job in jobs:
        job.communicate()


def test_one_process_alone_gathers_itself():
    assert processes.gather({"a": [1, None]}) == [{"a": [1, None]}]
    processes.wait_for_all("alone")


def test_half_of_an_address_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="belong together"):
        processes.initialize("127.0.0.1:1", None, None, HEARTBEAT)


def test_a_job_that_no_cluster_started_is_refused_in_a_sentence():
    program = "from agemem_jax.parallel import processes; processes.initialize(None,None,None,5)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "--distributed found no cluster" in done.stderr
