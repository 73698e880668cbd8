"""launch/tpu_pod.sh: the commands it would run, and its restarts against a stand-in of gcloud."""

import shlex

import pytest

from tests.launch.launching import ROOT, environment, run, starts, write_plan

POD = [
    "bash", "launch/tpu_pod.sh", "--name=pod", "--zone=us-west4-a",
    "--accelerator=v5litepod-16",
]  # fmt: skip


def commands(*options):
    result = run([*POD, "--dry_run", *options], environment(TMPDIR="/tmp", GRACE="30"))
    assert result.returncode == 0 and result.stderr == ""
    assert all(line.startswith("+ ") for line in result.stdout.splitlines())
    return [shlex.split(line)[1:] for line in result.stdout.splitlines()]


def test_a_dry_run_prints_every_command_in_order():
    shown = commands("--project=p", "--spot", "--", "--config=c.py")
    where = ["--zone=us-west4-a", "--project=p", "--quiet"]
    queued, vm = (["gcloud", "compute", "tpus", kind] for kind in ("queued-resources", "tpu-vm"))
    describe = [*queued, "describe", "pod", *where, "--format=value(state.state)"]
    describe_machines = [*vm, "describe", "pod", "--format=value(state)", *where]

    def ssh(worker, action):
        script = f"--command=bash agemem/launch/tpu_worker.sh {action}"
        return [*vm, "ssh", "pod", f"--worker={worker}", script, *where]

    assert shown == [
        describe,
        [
            *queued, "create", "pod", *where, "--node-id=pod", "--accelerator-type=v5litepod-16",
            "--runtime-version=v2-alpha-tpuv5-lite", "--spot",
        ],
        describe,
        describe_machines,
        ssh(0, "state"),
        [
            "bash", "-c", "git ls-files -z --cached --others --exclude-standard"
            " | tar --create --gzip --null --files-from=- --file='/tmp/pod.tar.gz'",
        ],
        [*vm, "scp", "/tmp/pod.tar.gz", "pod:agemem.tar.gz", "--worker=all", *where],
        [
            *vm, "ssh", "pod", "--worker=all",
            "--command=mkdir -p agemem && tar -xzf agemem.tar.gz -C agemem", *where,
        ],
        ssh("all", "install"),
        ssh("all", "start --config=c.py"),
        ssh(0, "follow"),
        ssh(0, "state"),
        describe,
        describe_machines,
        ssh("all", "finish 90"),
    ]  # fmt: skip


def test_arguments_reach_the_workers_as_they_were_given():
    arguments = ["--config=c.py", "--workdir=gs://b/a b", "--x=it's $(date) \"; rm -rf ~", ""]
    (start,) = [
        word
        for command in commands("--", *arguments)
        for word in command
        if "tpu_worker.sh start" in word
    ]
    assert shlex.split(start.removeprefix("--command="))[3:] == arguments


def test_options_change_what_is_asked_for():
    (create,) = [c for c in commands("--runtime=mine", "--", "--a") if "create" in c]
    assert "--runtime-version=mine" in create
    assert "--spot" not in create and not any(word.startswith("--project") for word in create)
    kinds = [command[4] for command in commands("--delete")]
    assert kinds == ["ssh", "delete"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--zone=z", "--", "--a"], "--name and --zone are needed"),
        (["--name=n", "--zone=z", "--", "--a"], "--accelerator is needed, and --"),
        ([*POD[2:]], "--accelerator is needed, and --"),
        ([*POD[2:], "--config=c.py"], "unknown option --config=c.py; the arguments of"),
    ],
)
def test_wrong_use_is_told_in_one_sentence(arguments, error):
    result = run(["bash", "launch/tpu_pod.sh", *arguments], environment())
    assert result.returncode == 2
    assert result.stderr.startswith(f"Error: {error}")
    assert len(result.stderr.splitlines()) == 1


def in_the_cloud(tmp_path, *plan, **changes):
    """Runs the script on a pod of two workers, both folders, by tests/launch/gcloud."""
    env = environment(CLOUD=str(tmp_path), **changes)
    env["PATH"] = f"{ROOT / 'tests' / 'launch'}:{env['PATH']}"
    env["TMPDIR"] = str(tmp_path)
    result = run([*POD, "--", *write_plan(tmp_path, *plan)], env)
    log = (tmp_path / "log").read_text().splitlines()
    return result, [line.split()[3] for line in log if line.split()[2] == "queued-resources"], log


def test_a_pod_is_created_once_and_all_workers_start_again_after_a_death(tmp_path):
    result, resources, log = in_the_cloud(tmp_path, ["kill", 0], [134, 0])
    assert result.returncode == 0, result.stderr
    assert "starting all workers again (1 of 10)" in result.stderr
    assert resources.count("create") == 1 and "delete" not in resources
    assert len(starts(tmp_path, 0)) == len(starts(tmp_path, 1)) == 2
    assert starts(tmp_path, 1)[0]["arguments"][0] == "--distributed"
    # The same command again uses the same pod.
    result, resources, _ = in_the_cloud(tmp_path, [0], [0])
    assert result.returncode == 0 and resources.count("create") == 1


def test_a_preempted_pod_is_given_back_and_asked_for_again(tmp_path):
    (tmp_path / "preempt").touch()
    result, resources, _ = in_the_cloud(tmp_path, [75, 0], [75, 0], MAX_RESTARTS="0")
    assert result.returncode == 0, result.stderr
    assert [r for r in resources if r != "describe"] == ["create", "delete", "create"]
    assert len(starts(tmp_path, 0)) == 2


def test_an_error_ends_the_job_and_a_hanging_worker_is_killed(tmp_path):
    result, resources, _ = in_the_cloud(tmp_path, [1], ["hang"])
    assert result.returncode == 1, result.stderr
    assert len(starts(tmp_path, 0)) == 1 and "delete" not in resources
