"""The manifest for GKE fits the published schemas, and takes odd values without harm."""

import os
import pathlib
import re
import sys

import pytest
import yaml

from tests.launch.launching import ROOT, environment, run

sys.path.insert(0, str(ROOT / "launch"))
import render_jobset  # noqa: E402  # launch/ is no package: it holds scripts

TOPOLOGIES = {  # hosts, chips per host
    "v5e:1x1": (1, 1), "v5e:2x2": (1, 4), "v5e:2x4": (2, 4), "v5e:4x4": (4, 4),
    "v5e:8x16": (32, 4), "v6e:16x16": (64, 4), "v4:2x2x1": (1, 4), "v5p:2x2x4": (4, 4),
    "v5p:4x4x4": (16, 4), "v5p:8x8x12": (192, 4),
}  # fmt: skip


def manifest(topology="v5e:4x4", name="agemem", arguments=("--config=c.py",)):
    return render_jobset.render(name, "registry/agemem:1", topology, 3, list(arguments))


def job_of(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def container_of(jobset):
    (container,) = job_of(jobset)["template"]["spec"]["containers"]
    return container


def printed(*options, arguments=("--config=c.py",)):
    command = [
        sys.executable, "launch/render_jobset.py", "--name=agemem", "--image=registry/agemem:1",
        *options, "--", *arguments,
    ]  # fmt: skip
    return run(command, environment())


def jobset_model(jobset):
    """The manifest read by the models made of JobSet's published OpenAPI document."""
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="of requirements-dev.txt")
    return models.JobsetV1alpha2JobSet.from_dict(jobset).to_dict()


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_the_manifest_fits_jobsets_schema(topology):
    jobset = manifest(topology)
    # What the schema does not know is lost on the way.
    assert jobset_model(jobset) == jobset
    # What the CRD demands beyond it.
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
        actions = ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts")
        assert rule["action"] in actions


def test_jobsets_schema_refuses_what_it_does_not_know():
    jobset = manifest()
    jobset["spec"]["failurePolicy"]["maxRestart"] = 3
    assert jobset_model(jobset) != jobset
    jobset["spec"]["failurePolicy"]["maxRestarts"] = "often"
    with pytest.raises(ValueError, match="maxRestarts"):
        jobset_model(jobset)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_its_job_fits_kubernetes_schema(topology):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="requirements-dev.txt")
    jobset = manifest(topology)
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "train"}}
    for version in ("1.31", "1.37"):
        kubernetes_validate.validate(job | {"spec": job_of(jobset)}, version, strict=True)
    job_of(jobset)["template"]["spec"]["restartpolicy"] = "Never"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job | {"spec": job_of(jobset)}, "1.37", strict=True)


@pytest.mark.skipif("JOBSET_CRD" not in os.environ, reason="JOBSET_CRD names no file with the CRD.")
def test_the_manifest_fits_the_crd_itself():
    """With config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml of the JobSet project."""
    jsonschema = pytest.importorskip("jsonschema")
    crd = yaml.safe_load(pathlib.Path(os.environ["JOBSET_CRD"]).read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for topology in TOPOLOGIES:
        jsonschema.validate(manifest(topology), schema)


@pytest.mark.parametrize(("topology", "sizes"), TOPOLOGIES.items())
def test_hosts_and_chips_follow_from_the_topology(topology, sizes):
    jobset = manifest(topology)
    hosts, chips = sizes
    assert job_of(jobset)["parallelism"] == job_of(jobset)["completions"] == hosts
    resources = container_of(jobset)["resources"]
    assert resources["limits"] == resources["requests"] == {"google.com/tpu": chips}
    kind, shape = topology.split(":")
    labels = {
        "v4": "tpu-v4-podslice", "v5e": "tpu-v5-lite-podslice", "v5p": "tpu-v5p-slice",
        "v6e": "tpu-v6e-slice",
    }  # fmt: skip
    assert job_of(jobset)["template"]["spec"]["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": labels[kind],
        "cloud.google.com/gke-tpu-topology": shape,
    }


@pytest.mark.parametrize(
    ("status", "rule"),
    [(75, "preempted"), (1, "error"), (127, "error"), (134, None), (137, None)],
)
def test_the_failure_policy_restarts_by_the_exit_status(status, rule):
    """The Job's controller writes the message that JobSet's rules read."""
    jobset = manifest()
    matching = [
        index
        for index, pod_rule in enumerate(job_of(jobset)["podFailurePolicy"]["rules"])
        if status in pod_rule.get("onExitCodes", {}).get("values", ())
    ]
    message, reason = "Job has reached the specified backoff limit", "BackoffLimitExceeded"
    if matching:
        message = (
            f"Container train for pod default/agemem-train-0-0-abcde failed with exit code {status}"
            f" matching FailJob rule at index {matching[0]}"
        )
        reason = "PodFailurePolicy"
    names = [
        rule["name"]
        for rule in jobset["spec"]["failurePolicy"]["rules"]
        if reason in rule["onJobFailureReasons"]
        and any(re.search(p, message) for p in rule.get("onJobFailureMessagePatterns", [""]))
    ]
    assert names[:1] == ([rule] if rule else [])  # none: JobSet restarts, and counts it


def test_arguments_are_printed_so_that_they_come_back_as_they_were():
    odd = [
        "--config=c.py",
        "--a=yes",
        "--b={x: [1]}\n- y: |",
        "--c='\"#",
        "--d=$(HOME) $x",
        "",
        "7",
    ]
    result = printed("--topology=v5e:4x4", "--max_restarts=3", arguments=odd)
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(result.stdout) == manifest(arguments=odd)
    arguments = container_of(yaml.safe_load(result.stdout))["args"]
    # Kubernetes makes $( of $$(, where it would replace $(HOME).
    assert [a.replace("$$(", "$(") for a in arguments] == ["--distributed", *odd]


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("--topology=v5e:3x3", "--topology=v5e:3x3 does not exist; v5e has one of 1x1, 2x2, "),
        ("--topology=v5e:4x4x4", "--topology=v5e:4x4x4 does not exist; v5e has one of "),
        ("--topology=v5p:4x4x6", "--topology=v5p:4x4x6 does not exist; v5p has 2x2x1, "),
        ("--topology=v5p:8x4x4", "--topology=v5p:8x4x4 does not exist; v5p has "),
        ("--topology=v4:16x16x20", "--topology=v4:16x16x20 does not exist; v4 has "),
        ("--topology=v5p:0x4x4", "--topology=v5p:0x4x4 does not exist; v5p has "),
        ("--topology=4x4", "--topology=4x4 must be TYPE:TOPOLOGY with a TYPE of "),
        ("--name=A", "--name='A' must be at most "),
        ("--name=a\nkind: Pod", "--name='a\\nkind: Pod' must be at most "),
        ("--name=" + "a" * 50, f"--name='{'a' * 50}' must be at most 47 "),
        ("--image=a b", "--image='a b' is no name of an image."),
    ],
)
def test_wrong_values_are_told_in_one_sentence(option, error):
    result = printed("--topology=v5e:4x4", option)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith(f"Error: {error}")
    assert len(result.stderr.splitlines()) == 1
