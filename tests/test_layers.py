"""The house of the design: arrows point down only, and the science imports without the machinery around it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("s2d_core", "tasks", "flows", "deployments")
MAY_IMPORT = {
    "s2d_core": {"s2d_core"},
    "tasks": {"s2d_core", "tasks"},
    "flows": {"s2d_core", "tasks", "flows"},
    "deployments": set(PACKAGES),
}
ORCHESTRATION = {"prefect", "mlflow"}

# Packages beside each other, and what stands above all of them.
PEERS = ("losses", "data", "worlds", "rewards", "rollouts", "evaluation", "report")
ABOVE_PEERS = ("s2d_core.training", "s2d_core.stages", "s2d_core.launch", "s2d_core.run_stage", "s2d_core.preflight")


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere in it; ``from a import b`` counts as a and a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("package", PACKAGES)
def test_layers_import_downward_only(package: str) -> None:
    forbidden = {other for other in PACKAGES if other not in MAY_IMPORT[package]}
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(package)
        for name in imported(path)
        if any(within(name, other) for other in forbidden)
    }
    assert not wrong


def test_the_science_imports_neither_prefect_nor_mlflow() -> None:
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules("s2d_core")
        for name in imported(path)
        if name.split(".")[0] in ORCHESTRATION
    }
    assert not wrong


@pytest.mark.parametrize("package", PEERS)
def test_peers_inside_the_science_do_not_know_what_is_above_them(package: str) -> None:
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(f"s2d_core/{package}")
        for name in imported(path)
        if any(within(name, above) for above in ABOVE_PEERS)
    }
    assert not wrong


def test_losses_know_no_other_package() -> None:
    allowed = ("s2d_core.losses", "s2d_core.errors")
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules("s2d_core/losses")
        for name in imported(path)
        if within(name, "s2d_core") and not any(within(name, each) for each in allowed)
    }
    assert not wrong


BLOCKER = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({blocked!r}))  # importing one fails, looking for it finds none
for package in {packages!r}:
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(module.__path__, package + "."):
        importlib.import_module(found.name)
"""


def import_without(blocked: set[str], *packages: str) -> subprocess.CompletedProcess[str]:
    """Import every module of ``packages`` in a process that cannot import ``blocked``."""
    code = BLOCKER.format(blocked=blocked, packages=packages)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_science_imports_without_ray_vllm_prefect_and_mlflow() -> None:
    packages = [f"s2d_core.{name}" for name in ("losses", "training", "data", "worlds", "config")]
    done = import_without({"ray", "vllm", "prefect", "mlflow"}, *packages)
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks() -> None:
    assert "import of torch halted" in import_without({"torch"}, "s2d_core.losses").stderr
