"""The template for GKE: it is what JobSet reads, and agrees with the program that it runs."""

import math
import shlex
from pathlib import Path

import pytest
import yaml

from rlsyn_jax.training import processes
from rlsyn_jax.training.preemption import EXIT_CODE

TEXT = (Path(__file__).parents[2] / "experiments" / "jobset.yaml").read_text()
# What stands in comments, to be put in place of what precedes it.
GPU_VARIABLES = "# - name: JAX_COORDINATOR_ADDRESS"


@pytest.fixture
def jobset():
    return yaml.safe_load(TEXT)


def parts(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    return replicated, job, job["template"]["spec"], container


def test_a_pod_is_a_host_of_the_slice_and_asks_for_all_its_chips(jobset):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    _, job, pod, container = parts(jobset)
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert container["resources"]["requests"]["google.com/tpu"] == chips
    assert job["completionMode"] == "Indexed"
    hosts = math.prod(map(int, topology.split("x"))) // chips
    assert job["parallelism"] == job["completions"] == hosts > 1
    assert (
        "TPU_WORKER_HOSTNAMES" in TEXT and "TPU_WORKER_HOSTNAMES" in processes._LAUNCHER_VARIABLES
    )


def test_a_preempted_run_starts_again_however_often(jobset):
    _, job, pod, container = parts(jobset)
    saved, gone = job["podFailurePolicy"]["rules"]
    assert saved["action"] == gone["action"] == "FailJob"
    codes = {"containerName": container["name"], "operator": "In", "values": [EXIT_CODE]}
    assert saved["onExitCodes"] == codes
    assert gone["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    # Pod failure policies need both.
    assert pod["restartPolicy"] == "Never" and job["backoffLimit"] == 0
    assert pod["terminationGracePeriodSeconds"] > 30


def test_the_commands_are_those_of_the_program(jobset):
    *_, pod, container = parts(jobset)
    assert container["command"] == ["bash", "-c"]
    (line,) = container["args"]
    command = shlex.split(line)
    assert command[:4] == ["exec", "python", "-m", "rlsyn_jax.main"]
    (workdir,) = [part for part in command if part.startswith("--workdir=")]
    (mount,) = container["volumeMounts"]
    assert workdir.removeprefix("--workdir=").startswith(mount["mountPath"] + "/")
    assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]
    assert "exec python experiments/sweep.py FILE --workdir=/shared/sweep --job=NAME" in TEXT


def test_the_variables_for_gpus_name_all_that_joins_processes_by_hand():
    lines = TEXT.splitlines()
    first = next(number for number, line in enumerate(lines) if GPU_VARIABLES in line)
    indent = lines[first].index("#")
    block = []
    for line in lines[first:]:
        if not line[indent:].startswith("# "):
            break
        block.append(line[indent + 2 :])
    variables = yaml.safe_load("\n".join(block))
    assert {variable["name"] for variable in variables} == set(processes._BY_HAND)
    name = yaml.safe_load(TEXT)["metadata"]["name"]
    (replicated, *_) = parts(yaml.safe_load(TEXT))
    host = f"{name}-{replicated['name']}-0-0.{name}"
    assert variables[0]["value"].startswith(f"{host}:")
