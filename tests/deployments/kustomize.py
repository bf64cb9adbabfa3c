"""The few things of kustomize that deployments/kubernetes uses, so that the manifests are checked without kubectl."""

from pathlib import Path
from typing import Any

import jsonpatch
import yaml

Object = dict[str, Any]


def build(folder: Path) -> list[Object]:
    """The objects of a kustomization: its resources, patched, with image tags and the namespace."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    objects = [found for name in kustomization["resources"] for found in _read(folder / name)]
    for patch in kustomization.get("patches", []):
        operations = yaml.safe_load(patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text())
        hit = [each for each in objects if _matches(each, patch["target"])]
        assert hit, f"{folder}: nothing is of {patch['target']}"
        for each in hit:
            jsonpatch.apply_patch(each, operations, in_place=True)
    tags = {image["name"]: f"{image['name']}:{image['newTag']}" for image in kustomization.get("images", [])}
    for each in objects:
        for pod in pods(each):
            for container in pod["containers"]:
                container["image"] = tags.get(container["image"], container["image"])
        if "namespace" in kustomization and each["kind"] != "Namespace":
            each["metadata"]["namespace"] = kustomization["namespace"]
    return objects


def pods(found: Object) -> list[Object]:
    """Pod specs inside an object."""
    spec = found.get("spec", {})
    if found["kind"] == "Deployment":
        return [spec["template"]["spec"]]
    cluster = spec.get("rayClusterSpec", spec) if found["kind"] in ("RayCluster", "RayJob") else {}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]] if cluster else []
    return [group["template"]["spec"] for group in groups]


def _read(path: Path) -> list[Object]:
    return build(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))


def _matches(found: Object, target: dict[str, str]) -> bool:
    return (
        found["kind"] == target["kind"] and target.get("name", found["metadata"]["name"]) == found["metadata"]["name"]
    )
