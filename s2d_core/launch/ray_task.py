"""A stage as a Ray task. A task can be ended at any moment, whatever it is in, and leaves no thread behind in the
process that launched it."""

from s2d_core.config.schema import TrainingConfig
from s2d_core.errors import StageError
from s2d_core.run_stage import run_stage
from s2d_core.spec import StageResult, StageSpec


class RayTask:
    """The stage on the attached cluster, once more whenever its process dies (``training.max_failures``).

    A stage that trains, or has several workers, is a Ray Train job, which the task only drives. Any other runs in the
    task itself: Ray keeps task workers warm, and the next one starts at once, where Ray Train would start, for each
    stage, a controller and a worker that import everything anew.
    """

    def __init__(self, spec: StageSpec) -> None:
        import ray

        training = TrainingConfig(**spec.execution["training"])
        drives = spec.kind == "train" or training.workers > 1
        remote = ray.remote(_fit if drives else run_stage).options(
            name=spec.id,
            num_cpus=0 if drives else training.cpus_per_worker,
            num_gpus=0 if drives else training.gpus_per_worker,
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
            lines = str(error).splitlines() or [type(error).__name__]
            raise StageError(f"{self.spec.id}: {lines[0]}") from error
        return result

    def cancel(self) -> None:
        import ray

        if not self.wait(0):  # Ray aborts the whole process when told to cancel a task that has just failed
            ray.cancel(self._reference, force=True)


def _fit(spec: StageSpec) -> StageResult:
    from s2d_core.training.ray_train import fit

    return fit(spec)
