"""A stage that trains nothing, as a plain Ray task. Ray keeps task workers warm: the next one starts at once, where
Ray Train would start, for each stage, a controller and a worker that import everything anew."""

from s2d_core.config.schema import TrainingConfig
from s2d_core.errors import StageError
from s2d_core.run_stage import run_stage
from s2d_core.spec import StageResult, StageSpec


class RayTask:
    """``run_stage(spec)`` on the attached cluster, once more whenever its worker dies (``training.max_failures``)."""

    def __init__(self, spec: StageSpec) -> None:
        import ray

        training = TrainingConfig(**spec.execution["training"])
        remote = ray.remote(run_stage).options(
            name=spec.id,
            num_cpus=training.cpus_per_worker,
            num_gpus=training.gpus_per_worker,
            max_retries=training.max_failures,
        )
        self.spec, self._reference = spec, remote.remote(spec)

    def wait(self, seconds: float) -> bool:
        import ray

        return bool(ray.wait([self._reference], timeout=seconds)[0])

    def result(self) -> StageResult:
        import ray

        try:
            result: StageResult = ray.get(self._reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise StageError(f"{self.spec.id}: {str(error).splitlines()[0]}") from error
        return result

    def cancel(self) -> None:
        import ray

        if not self.wait(0):  # Ray aborts the whole process when told to cancel a task that has just failed
            ray.cancel(self._reference, force=True)
