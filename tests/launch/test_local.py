"""launch/local.sh starts all processes again when it should, and only then."""

import os
import pty
import signal
import subprocess
import time

import pytest

from tests.launch.launching import ROOT, environment, run, starts, write_plan

LOCAL = ["bash", "launch/local.sh", "2", "--"]
# A shell that runs the tests in its background has them, and all they start, ignore SIGINT.
HEEDING_SIGINT = ["env", "--default-signal=INT"]


def local(workdir, *plan, **changes):
    return run([*LOCAL, *write_plan(workdir, *plan)], environment(**changes))


def test_processes_learn_of_each_other_and_get_the_programs_arguments(tmp_path):
    command = [*LOCAL, *write_plan(tmp_path, [0], [0]), "--config.tasks.options.manual_dir=a b"]
    assert run(command, environment()).returncode == 0
    (first,), (second,) = (starts(tmp_path, i)[0:1] for i in range(2))
    coordinator = [a for a in first["arguments"] if a.startswith("--coordinator=127.0.0.1:")]
    assert len(coordinator) == 1 and coordinator[0] in second["arguments"]
    assert "--config.tasks.options.manual_dir=a b" in first["arguments"]
    for process, told in enumerate((first, second)):
        assert told["arguments"][-2:] == ["--num_processes=2", f"--process_id={process}"]


@pytest.mark.parametrize(
    "plan",
    [
        ([0, 0], ["kill", 0]),
        ([134, 0], ["kill", 0]),
        ([1, 0], ["kill", 0]),  # the other one may tell its death as an error
        ([75, 0], [75, 0]),
        ([75, 0], [1, 0]),
        (["hang", 0], ["kill", 0]),  # killed after the heartbeat's time
    ],
)
def test_a_preemption_or_a_death_starts_all_again(plan, tmp_path):
    result = local(tmp_path, *plan)
    assert result.returncode == 0, result.stderr
    assert "starting all processes again (1 of 10)" in result.stderr
    first, again = (starts(tmp_path, 0)[i]["arguments"] for i in range(2))
    assert len(starts(tmp_path, 0)) == len(starts(tmp_path, 1)) == 2
    assert first != again, "the port must be a fresh one"


@pytest.mark.parametrize("plan", [([1], [0]), ([1], [1]), ([0], [3]), ([1], ["hang"])])
def test_an_error_ends_the_job_with_its_status(plan, tmp_path):
    result = local(tmp_path, *plan)
    assert result.returncode == max(value for (value,) in plan if value != "hang")
    assert len(starts(tmp_path, 0)) == len(starts(tmp_path, 1)) == 1


@pytest.mark.parametrize(("action", "status"), [("kill", 137), (75, 75)])
def test_it_gives_up_after_so_many_restarts(action, status, tmp_path):
    result = local(tmp_path, [action], [action], MAX_RESTARTS="2")
    assert result.returncode == status
    assert "gave up after 2 restarts" in result.stderr
    assert len(starts(tmp_path, 0)) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_nothing_starts_again(number, tmp_path):
    command = [*HEEDING_SIGINT, *LOCAL, *write_plan(tmp_path, ["save"], ["save"])]
    process = subprocess.Popen(command, cwd=ROOT, env=environment())
    while not (starts(tmp_path, 0) and starts(tmp_path, 1)):
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=10) == 75
    assert len(starts(tmp_path, 0)) == len(starts(tmp_path, 1)) == 1


def test_control_c_in_a_terminal_saves_like_a_signal(tmp_path):
    command = [*HEEDING_SIGINT, *LOCAL, *write_plan(tmp_path, ["save"], ["save"])]
    parent, terminal = pty.openpty()
    process = subprocess.Popen(
        # The terminal becomes the one that controls the script, as a shell would have it.
        ["setsid", "--ctty", "--wait", *command],
        cwd=ROOT, env=environment(), stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    while not (starts(tmp_path, 0) and starts(tmp_path, 1)):
        time.sleep(0.05)
    os.write(parent, b"\x03")
    assert process.wait(timeout=10) == 75
    os.close(parent)
    os.close(terminal)


@pytest.mark.parametrize("arguments", [[], ["2"], ["0", "--"], ["two", "--"], ["--config=a"]])
def test_wrong_use_is_told_in_one_sentence(arguments):
    result = run(["bash", "launch/local.sh", *arguments], environment())
    assert result.returncode == 2
    assert result.stderr.startswith("Error: use: bash launch/local.sh N -- ")
    assert len(result.stderr.splitlines()) == 1
