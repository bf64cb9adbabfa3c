"""The manifests of deployments/kubernetes: valid by schema, safe, and running what docker/compose.yaml runs."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal

import kubernetes_validate
import pytest
import yaml
from kustomize import Object, build, pods
from pydantic import BaseModel, ConfigDict, Field

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "deployments" / "kubernetes"
FOLDERS = ("base", "cpu-small", "gpu", "rayjob")
KUBERNETES = "1.34"


class Ray(BaseModel):
    """KubeRay's objects (ray.io/v1), as far as they are used here: an unknown field is an error, as on a cluster that
    validates strictly."""

    model_config = ConfigDict(extra="forbid")


class Metadata(Ray):
    name: str
    namespace: str = "s2d"


class Template(Ray):
    spec: dict[str, Any]  # validated as a pod


class Head(Ray):
    rayStartParams: dict[str, str]  # noqa: N815
    template: Template


class Workers(Head):
    groupName: str = Field(pattern="^[a-z0-9-]+$")  # noqa: N815
    replicas: int = Field(ge=0)
    minReplicas: int = Field(ge=0)  # noqa: N815
    maxReplicas: int = Field(ge=1)  # noqa: N815


class Auth(Ray):
    mode: Literal["disabled", "token"]
    secretName: str  # noqa: N815


class ClusterSpec(Ray):
    rayVersion: str  # noqa: N815
    authOptions: Auth  # noqa: N815
    headGroupSpec: Head  # noqa: N815
    workerGroupSpecs: list[Workers] = Field(min_length=1)  # noqa: N815


class JobSpec(Ray):
    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]  # noqa: N815
    backoffLimit: int = Field(ge=0)  # noqa: N815
    shutdownAfterJobFinishes: bool  # noqa: N815
    ttlSecondsAfterFinished: int = Field(ge=0)  # noqa: N815
    rayClusterSpec: ClusterSpec  # noqa: N815


class RayObject(Ray):
    apiVersion: Literal["ray.io/v1"]  # noqa: N815
    kind: Literal["RayCluster", "RayJob"]
    metadata: Metadata
    spec: ClusterSpec | JobSpec


def validate(found: Object) -> None:
    """Raises when a field is unknown or of the wrong type."""
    if found["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(found, KUBERNETES, strict=True)
        return
    RayObject.model_validate(found)
    for pod in pods(found):
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "made"}, "spec": pod}
        kubernetes_validate.validate(made, KUBERNETES, strict=True)


def containers(objects: list[Object]) -> list[dict[str, Any]]:
    return [container for each in objects for pod in pods(each) for container in pod["containers"]]


def named(objects: list[Object], kind: str, name: str) -> Object:
    return next(each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name))


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_object_is_valid(folder: str) -> None:
    objects = build(MANIFESTS / folder)
    assert objects
    for each in objects:
        validate(each)


@pytest.mark.parametrize("kind", ["Deployment", "RayCluster"])
def test_a_misspelt_field_is_not_valid(kind: str) -> None:
    found = next(each for each in build(MANIFESTS / "base") if each["kind"] == kind)
    pods(found)[0]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError, match="imagePullPolice"):
        validate(found)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")
@pytest.mark.parametrize("folder", FOLDERS)
def test_kustomize_makes_the_same_of_them(folder: str) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(MANIFESTS / folder)], capture_output=True, text=True, check=True, timeout=60
    )
    theirs = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(done.stdout)}
    ours = {(each["kind"], each["metadata"]["name"]): each for each in build(MANIFESTS / folder)}
    assert theirs.keys() == ours.keys()
    for key, each in ours.items():
        assert theirs[key].get("spec") == each.get("spec"), key


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_pod_has_more_rights_or_fewer_requests_than_it_needs(folder: str) -> None:
    for each in build(MANIFESTS / folder):
        for pod in pods(each):
            assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
            assert pod["automountServiceAccountToken"] is False
            for container in pod["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert {"cpu", "memory"} <= container["resources"]["requests"].keys()


def test_secrets_are_referred_to_and_the_documentation_names_each_key() -> None:
    objects = build(MANIFESTS / "base")
    assert not [each for each in objects if each["kind"] == "Secret"]
    variables = [variable for container in containers(objects) for variable in container.get("env", [])]
    keys = {variable["valueFrom"]["secretKeyRef"]["key"] for variable in variables if "valueFrom" in variable}
    secret = re.compile("PASSWORD|TOKEN$|AUTH_STRING|SECRET|DATABASE|STORE_URI")
    assert keys and not [v["name"] for v in variables if secret.search(v["name"]) and "value" in v]
    page = (ROOT / "docs" / "run-on-a-cluster.md").read_text()
    assert keys == set(re.findall(r"--from-literal=(\w+)=", page))


@pytest.mark.parametrize("folder", ["cpu-small", "gpu"])
def test_what_an_object_refers_to_is_there(folder: str) -> None:
    objects = build(MANIFESTS / folder)
    claims = {each["metadata"]["name"] for each in objects if each["kind"] == "PersistentVolumeClaim"}
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in objects if each["kind"] == "Deployment"]
    used = set()
    for each in objects:
        for pod in pods(each):
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            used |= {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
            assert {mount["name"] for c in pod["containers"] for mount in c["volumeMounts"]} == volumes.keys()
        if each["kind"] == "Service" and each["metadata"]["name"] != "ray-head":
            assert each["spec"]["selector"] in labels
    assert used == claims


def test_services_run_the_commands_of_the_compose_file() -> None:
    objects = build(MANIFESTS / "base")
    composed = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    for name in ("prefect", "prefect-worker", "mlflow"):
        pod = pods(named(objects, "Deployment", name))[0]
        assert pod["containers"][0]["command"] == composed[name]["command"]


def test_only_the_gpu_overlay_asks_for_gpus_and_goes_where_they_are() -> None:
    for folder, wanted in (("cpu-small", False), ("gpu", True)):
        head, workers = pods(named(build(MANIFESTS / folder), "RayCluster", "s2d"))
        assert ("nvidia.com/gpu" in workers["containers"][0]["resources"]["limits"]) is wanted
        assert ("nodeSelector" in workers, "tolerations" in workers) == (wanted, wanted)
        assert "nodeSelector" not in head


def test_the_operator_is_told_the_version_of_ray_that_is_installed() -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "docker" / "requirements-cpu.txt").read_text(), re.M)
    assert pinned
    cluster = named(build(MANIFESTS / "base"), "RayCluster", "s2d")["spec"]
    job = named(build(MANIFESTS / "rayjob"), "RayJob", "small-world")["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == job["rayVersion"] == pinned[1]
