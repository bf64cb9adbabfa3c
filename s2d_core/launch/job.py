"""A stage as a Ray job: it outlives the process that submitted it and is found again by its submission id."""

import sys
import time
from collections.abc import Collection
from pathlib import Path

from s2d_core.config.schema import LaunchConfig
from s2d_core.errors import ResourceError, StageError
from s2d_core.spec import StageResult, StageSpec, fingerprint
from s2d_core.store import Store

POLL_S = 0.5
AGENT_SECONDS = 120.0
LOG_TAIL = 20


def stop_jobs(address: str, stages: Collection[str]) -> list[str]:
    """Ask every running job of the stages with these ids to stop; returns the jobs' submission ids."""
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(address)
    running = [job.submission_id or "" for job in client.list_jobs() if not job.status.is_terminal()]
    stopped = [submission for submission in running if submission.rpartition("-")[0] in stages]
    for submission in stopped:
        client.stop_job(submission)
    return stopped


class RayJob:
    """``python -m s2d_core.run_stage spec.json`` on the cluster at ``config.address`` (``http://host:port``).

    The submission id is the stage's id, the store and the number of the try, so a second launcher of the same spec
    attaches to the job that is running instead of submitting another, and another store's experiment on the same
    cluster has jobs of its own. The store must be visible, at the same path, to the cluster's nodes.
    """

    def __init__(self, spec: StageSpec, config: LaunchConfig) -> None:
        from ray.job_submission import JobSubmissionClient

        self.spec, self.store = spec, Store(spec.execution["store"])
        self.python = config.python or sys.executable
        try:
            self.client = JobSubmissionClient(config.address)
            self.submission_id = self._attach_or_submit()
        except Exception as error:  # requests', urllib3's and Ray's errors have no common base
            raise ResourceError(
                f"launch.address = {config.address!r}: no Ray job server answers there "
                f"({str(error).splitlines()[0]}); give the head's dashboard address, for example "
                "http://127.0.0.1:8265, and RAY_AUTH_TOKEN where the cluster wants one"
            ) from error

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self.client.get_job_status(self.submission_id).is_terminal():
            if time.monotonic() >= deadline:
                return False
            time.sleep(min(POLL_S, seconds))
        return True

    def result(self) -> StageResult:
        result = self.store.result(self.spec)
        if result is not None:
            return result
        lines = self.client.get_job_logs(self.submission_id).strip().splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        reason = errors[-1] if errors else "\n".join(lines[-LOG_TAIL:])
        status = self.client.get_job_status(self.submission_id)
        raise StageError(f"Ray job {self.submission_id} {status}: {reason}")

    def cancel(self) -> None:
        self.client.stop_job(self.submission_id)

    def _attach_or_submit(self) -> str:
        name = f"{self.spec.id}-{fingerprint(str(self.store.root))[:8]}"
        tries = [job for job in self.client.list_jobs() if (job.submission_id or "").startswith(name)]
        running = [job.submission_id for job in tries if not job.status.is_terminal() and job.submission_id]
        if running:
            return running[0]
        directory = self.store.begin(self.spec)
        deadline = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                return self._submit(f"{name}-{len(tries) + 1}", directory)
            except RuntimeError as error:  # a head that has just come up answers before it can take jobs
                if "No available agent" not in str(error):
                    raise
                if time.monotonic() > deadline:
                    raise RuntimeError(
                        f"its dashboard agent has not come up in {AGENT_SECONDS:.0f} s: another head on the machine "
                        "may hold its port, see dashboard_agent.log and --dashboard-agent-listen-port"
                    ) from error
                time.sleep(1.0)

    def _submit(self, submission_id: str, directory: Path) -> str:
        return self.client.submit_job(
            submission_id=submission_id,
            entrypoint=f"{self.python} -m s2d_core.run_stage {directory / 'spec.json'}",
            metadata={"s2d_stage": self.spec.name, "s2d_fingerprint": self.spec.fingerprint},
        )
