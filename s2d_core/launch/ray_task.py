"""A stage as a Ray task. A task can be ended at any moment, whatever it is in, and leaves no thread behind in the
process that launched it."""

from s2d_core.config.schema import TrainingConfig
from s2d_core.errors import StageError
from s2d_core.run_stage import run_stage
from s2d_core.spec import StageResult, StageSpec
from s2d_core.store import Store


class RayTask:
    """The stage on the attached cluster, once more whenever its process dies (``training.max_failures``).

    A stage with one worker runs in the task itself, training as Ray Train's only worker: Ray keeps the processes of
    tasks warm, and the next stage starts at once, where a Ray Train job of its own starts, for each stage, a
    controller and a worker that import everything anew. With several workers it is such a job, which the task drives.
    """

    def __init__(self, spec: StageSpec) -> None:
        import ray

        training = TrainingConfig(**spec.execution["training"])
        drives = self._drives = training.workers > 1
        gpus = 0 if drives else training.gpus_per_worker
        remote = ray.remote(
            num_cpus=0 if drives else training.cpus_per_worker,
            num_gpus=gpus,
            resources={} if drives else training.resources_per_worker,
            max_retries=training.max_failures,
            max_calls=1 if gpus else 0,  # a warm process would keep the memory of a GPU that is no longer its own
        )(_run)
        Store(spec.execution["store"]).begin(spec)
        self.spec, self._reference = spec, remote.options(name=spec.id).remote(spec)

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
            if self._drives:
                from s2d_core.training.ray_train import release

                release(Store(self.spec.execution["store"]).dir(self.spec))


def _run(spec: StageSpec) -> StageResult:
    alone = TrainingConfig(**spec.execution["training"]).workers == 1
    if alone and spec.kind != "train":
        return run_stage(spec)
    from s2d_core.training.ray_train import fit

    return fit(spec, here=alone)
