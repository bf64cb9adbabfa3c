"""Where a run is to be seen elsewhere: its MLflow run, its report to come, the dashboard of its Ray cluster."""

from prefect.artifacts import create_markdown_artifact

from s2d_core.config.schema import LaunchConfig
from s2d_core.launch.cluster import dashboard
from tasks.tracking import Tracker


def publish_links(tracker: Tracker, launch: LaunchConfig) -> None:
    """The ``links`` artifact of the flow run, made before its first stage starts."""
    lines = [f"**MLflow**: {_mlflow(tracker)}"]
    if address := dashboard(launch):
        lines.append(f"**Ray dashboard**: [{address}]({address})")
    create_markdown_artifact("\n\n".join(lines), key="links", description="The run in MLflow and on the cluster")


def _mlflow(tracker: Tracker) -> str:
    """A link where the tracking store is a server, else the command that shows it."""
    if tracker.page is None:
        return f"`mlflow ui --backend-store-uri {tracker.uri}`, run `{tracker.parent}`"
    report = f"{tracker.page}/artifacts/report/report.html"
    return f"[run {tracker.parent}]({tracker.page}), at the end with [the report]({report})"
