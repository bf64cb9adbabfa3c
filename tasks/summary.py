"""A flow's summary: a folder of its own under the store, ``latest`` pointing at it, artifacts in Prefect."""

from datetime import UTC, datetime
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from s2d_core.config.schema import Config
from s2d_core.report.summary import Summary, write_summary
from s2d_core.store import write_json
from tasks.report import pictures, point, where


@task(name="summary", task_run_name="summary", cache_policy=NO_CACHE, persist_result=False)
def make_summary(config: Config, name: str, summary: Summary, command: str, files: dict[str, str]) -> Path:
    """Write ``summary`` and further text ``files`` (name → content); returns the page's path."""
    root = Path(config.store).absolute()
    folder = root / "reports" / f"{config.name}-{name}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    page = write_summary(folder, name, summary, command)
    for file, content in files.items():
        (folder / file).write_text(content)
    write_json(folder / "config.json", config.model_dump(mode="json"))
    point(root / "latest", folder)
    return page


def publish_summary(name: str, summary: Summary, page: Path, files: dict[str, str], address: str | None) -> None:
    """The findings as artifacts of the flow run. address: where a server shows the page, if one does."""
    create_table_artifact(summary.rows, key=name, description=summary.findings[0])
    texts = [f"```yaml\n{content}\n```" for content in files.values()]
    words = [
        f"# {summary.title}",
        *summary.findings,
        where(page, address),
        *pictures(page.parent),
        *texts,
        *summary.notes,
    ]
    create_markdown_artifact("\n\n".join(words), key="report", description=summary.title)
