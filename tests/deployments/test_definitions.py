"""What is registered is read and checked as a whole, before any server is asked."""

from pathlib import Path

import pytest
import yaml

from deployments.definitions import FILE, load_definitions, load_flow, schema_version
from s2d_core.errors import ConfigError


def broken(tmp_path: Path, **changes: object) -> Path:
    """The shipped file, with ``changes`` to its deployment small-world."""
    content = yaml.safe_load(FILE.read_text())
    next(each for each in content["deployments"] if each["name"] == "small-world").update(changes)
    path = tmp_path / "deployments.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_every_shipped_deployment_can_run_and_the_sweeps_have_schedules() -> None:
    found = load_definitions()
    assert {pool.type for pool in found.work_pools.values()} == {"process", "docker", "kubernetes"}
    assert {each.flow for each in found.deployments} == {
        "sparse_to_dense", "ablations", "tune", "allocation", "evaluate",
    }  # fmt: skip
    scheduled = {
        each.full_name: [one.timezone for one in each.schedules] for each in found.deployments if each.schedules
    }
    assert scheduled == {"sparse_to_dense/small-world": ["UTC"], "ablations/small-world-ablations": ["UTC"]}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"flow": "sparse_to_sparse"}, "flows.sparse_to_sparse"),
        ({"parameters": {"recipe": "smoke", "seed": 3}}, "seed"),
        ({"parameters": {"recipe": "smoke", "seeds": "three"}}, "seeds"),
        ({"parameters": {"recipe": "small_word"}}, "small_word.*allowed"),
        ({"parameters": {"arms": ["ful"]}}, "arms = .*'ful'.*allowed.*full"),
        ({"schedules": [{"slug": "n", "cron": "61 * * * *", "timezone": "UTC"}]}, "schedule n.*61"),
        ({"schedules": [{"slug": "n", "cron": "1 * * * *", "timezone": "Mars/Olympus"}]}, "schedule n.*Mars"),
        ({"concurrency_limit": 0}, "concurrency_limit"),
    ],
)
def test_a_definition_that_cannot_work_is_named(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_definitions(broken(tmp_path, **changes))


def test_flows_with_other_parameters_have_another_version() -> None:
    one, same, other = (load_flow(f"flows.{name}.{name}") for name in ("evaluate", "evaluate", "tune"))
    assert schema_version(one) == schema_version(same) != schema_version(other)
