"""launch/slurm.sh in a real Slurm of one machine."""

import os
import re
import shutil
import subprocess
import tempfile
import time

import pytest

from tests.launch.launching import ROOT, environment, run, starts, write_plan

pytestmark = [
    pytest.mark.skipif(
        not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))),
        reason="Slurm is not installed (apt-get install slurm-wlm munge).",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons are started as root here."),
]


@pytest.fixture(scope="module")
def cluster():
    folder = tempfile.mkdtemp(prefix="agemem-slurm-")
    script = ["bash", "tests/launch/slurm_on_one_machine.sh"]
    subprocess.run([*script, "start", folder], cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
    yield environment(SLURM_CONF=f"{folder}/slurm.conf")
    subprocess.run([*script, "stop", folder], cwd=ROOT, check=True)
    shutil.rmtree(folder, ignore_errors=True)


def submit(env, tmp_path, *arguments):
    """Returns the job's number and its log."""
    log = tmp_path / "log"
    command = ["sbatch", "--parsable", "--ntasks=2", f"--output={log}", "launch/slurm.sh"]
    result = run([*command, *arguments], env)
    assert result.stdout.strip().isdigit(), result.stderr
    return result.stdout.strip(), log


def wait_for(condition):
    for _ in range(300):
        if value := condition():
            return value
        time.sleep(0.1)
    raise TimeoutError


def wait_for_state(env, number, *states):
    """Waits until the job is in one of the states; returns its exit status."""

    def status():
        shown = run(["scontrol", "show", "job", number], env).stdout
        state, code = re.search(r"JobState=(\w+).*ExitCode=(\d+)", shown, re.DOTALL).groups()
        return code if state in states else None

    return int(wait_for(status))


def run_job(env, tmp_path, *arguments):
    number, log = submit(env, tmp_path, *arguments)
    return wait_for_state(env, number, "COMPLETED", "FAILED"), log.read_text()


def test_two_tasks_are_one_job_that_finds_slurm_by_itself(cluster, tmp_path):
    env = cluster | {
        "AGEMEM_PROGRAM": "tests/launch/sum_over_processes.py",
        "JAX_NUM_CPU_DEVICES": "4",
    }
    status, shown = run_job(env, tmp_path, "--", "one", "two three")
    assert status == 0, shown
    for process in range(2):
        line = f"process {process} of 2: sum 3, 4 of 8 devices, arguments ['one', 'two three']"
        assert line in shown


def test_a_preemption_or_a_death_starts_all_tasks_again_in_the_allocation(cluster, tmp_path):
    plan = write_plan(tmp_path, ["kill", 75, 0], [1, 75, 0])
    status, shown = run_job(cluster, tmp_path, "--", *plan)
    assert status == 0, shown
    assert "starting all tasks again (2 of 10)" in shown
    ports = [start["port"] for start in starts(tmp_path, 0)]
    assert len(ports) == len(set(ports)) == 3
    assert ports == [start["port"] for start in starts(tmp_path, 1)]


def test_an_error_ends_the_job_with_its_status(cluster, tmp_path):
    status, _ = run_job(cluster, tmp_path, "--", *write_plan(tmp_path, [1], [0]))
    assert status == 1
    assert len(starts(tmp_path, 0)) == 1


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_job_told_to_stop_saves_and_is_queued_again_unless_cancelled(
    cancelled, cluster, tmp_path
):
    plan = write_plan(tmp_path, ["save", 0], ["save", 0])
    number, log = submit(cluster, tmp_path, "--", *plan)
    wait_for(lambda: starts(tmp_path, 0) and starts(tmp_path, 1))
    # What --signal=B:TERM@300 of slurm.sh has Slurm do before the time limit.
    how = [] if cancelled else ["--batch", "--signal=TERM"]
    run(["scancel", *how, number], cluster)
    wait_for_state(cluster, number, "CANCELLED" if cancelled else "PENDING")
    wait_for(lambda: "exit code 75" in log.read_text())
    assert len(starts(tmp_path, 0)) == 1
    assert ("queued again" in log.read_text()) is not cancelled
    run(["scancel", number], cluster)


def test_wrong_use_is_told_in_one_sentence(cluster, tmp_path):
    status, shown = run_job(cluster, tmp_path, "--config=c.py")
    assert status == 2
    assert shown.startswith("Error: use: sbatch [options of sbatch] launch/slurm.sh -- ")
