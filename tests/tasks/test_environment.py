"""Telemetry is off before the libraries that send it are imported, and the user's own settings win."""

import json
import os
import subprocess
import sys

SHOW = "import json, os, {module}; print(json.dumps(dict(os.environ)))"


def environment(module: str, **settings: str) -> dict[str, str]:
    """The environment of a new process after it has imported ``module``."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH")}
    code = SHOW.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], env=kept | settings, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_importing_the_tasks_switches_every_telemetry_off() -> None:
    found = environment("tasks")
    assert found["DO_NOT_TRACK"] == "true"
    assert found["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert found["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert found["RAY_USAGE_STATS_ENABLED"] == "0"
    assert found["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_importing_the_flows_does_the_same_before_prefect_is_imported() -> None:
    found = environment("flows, sys; assert 'prefect' not in sys.modules")
    assert found["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_what_the_user_has_set_stays() -> None:
    found = environment("tasks", PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="7", PREFECT_API_URL="http://x/api")
    assert found["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] == "7"
    assert found["PREFECT_API_URL"] == "http://x/api"


def test_an_empty_server_address_means_none() -> None:
    assert "PREFECT_API_URL" not in environment("tasks", PREFECT_API_URL="")
