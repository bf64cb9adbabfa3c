"""What Prefect, MLflow, Ray and the Hugging Face libraries read from the environment, settled before their import.

Telemetry is off, starts are given time, Ray Train prints a line once. Whatever the user has set stays.
"""

import os

DEFAULTS = {
    "DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",  # its default, 20 s, is short for a first start
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}


def prepare() -> None:
    """Fill in what is unset. An empty PREFECT_API_URL is unset: Prefect would take it for an address."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if os.environ.get("PREFECT_API_URL") == "":
        del os.environ["PREFECT_API_URL"]
