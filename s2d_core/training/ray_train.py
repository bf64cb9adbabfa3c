"""A stage as a Ray Train (V2) job: N workers, restarted from the stage's own checkpoints when one dies."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from s2d_core import errors
from s2d_core.config.schema import TrainingConfig
from s2d_core.errors import S2DError, StageError
from s2d_core.spec import StageResult, StageSpec
from s2d_core.store import Store, write_json
from s2d_core.training import parallel

ERROR = "error.json"
RESERVED = "placement_group"  # file that names what the run's workers hold of the cluster
# Ray would go on from what it finds here; what is done is for the stage's own checkpoints to say.
SNAPSHOT = "checkpoint_manager_snapshot.json"


def fit(spec: StageSpec, here: bool = False) -> StageResult:
    """Run ``spec`` on the Ray cluster this process is attached to; blocks until it is done.

    here: the only worker is this process, which must hold the stage's resources and be started again by its caller
    when it dies. Ray Train calls that its local mode; it saves a controller's, a helper's and a worker's start.
    Raises the stage's own S2DError, or StageError when its workers died more often than allowed.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    # A worker's report waits for the controller's next look, by default every 2 s: longer than many steps take.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    store = Store(spec.execution["store"])
    if (done := store.result(spec)) is not None:
        return done
    directory = store.begin(spec)
    for leftover in (ERROR, SNAPSHOT):
        (directory / leftover).unlink(missing_ok=True)
    training = TrainingConfig(**spec.execution["training"])
    gpu = training.gpus_per_worker > 0
    release(directory)
    trainer = _trainer_class(directory)(
        _worker,
        train_loop_config={"spec": spec.model_dump(mode="json")},
        # What is offloaded is gathered and summed on the host.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=0 if here else training.workers, use_gpu=gpu, resources_per_worker=training.reserved
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # ray.train's own, not the one its stubs show
            # The stage's own directory: the stage writes its checkpoints there and Ray only registers them.
            name=spec.id,
            storage_path=str(store.stages),
            checkpoint_config=CheckpointConfig(num_to_keep=None),
            failure_config=FailureConfig(max_failures=training.max_failures),
            worker_runtime_env={"env_vars": {"OMP_NUM_THREADS": str(training.threads)}},
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise _explain(spec, directory, error) from error
    finally:
        release(directory)
    result = store.result(spec)
    if (directory / ERROR).exists():
        raise _recorded(directory)
    if result is None:
        raise StageError(f"{spec.id}: its workers ended without a result; see {directory}")
    return result


def release(directory: Path) -> None:
    """Give back what the stage's workers still hold of the cluster: the end of their driver alone does not."""
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    with suppress(FileNotFoundError):
        held = (directory / RESERVED).read_text()
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(held)))
        (directory / RESERVED).unlink()


def _trainer_class(directory: Path) -> type[Any]:
    """Ray's TorchTrainer, without the helper that watches over its controller: it takes any answer that does not know
    the controller for the controller's end, and then ends the workers. ``release`` does what it is there for."""
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback

    class Reservation(WorkerGroupCallback):
        def after_worker_group_start(self, worker_group: Any) -> None:
            held = worker_group.get_worker_group_state().placement_group_handle.placement_group
            (directory / RESERVED).write_text(held.id.hex())

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]  # its stubs lack it
            kept = [each for each in callbacks if not isinstance(each, PlacementGroupCleanerCallback)]
            return [*kept, Reservation()]

    return Trainer


def _worker(config: dict[str, Any]) -> None:
    import ray.train
    from ray.train import Checkpoint, CheckpointUploadMode

    from s2d_core.run_stage import run_stage

    spec = StageSpec.model_validate(config["spec"])
    recorded = Store(spec.execution["store"]).dir(spec) / ERROR
    if parallel.rank() == 0:
        recorded.unlink(missing_ok=True)  # when a rank dies, the others record that they lost it

    def report(metrics: dict[str, float], checkpoint: Path | None) -> None:
        # The checkpoint stays where the stage wrote it; Ray only learns of it.
        ray.train.report(
            metrics,
            checkpoint=Checkpoint(str(checkpoint)) if checkpoint else None,
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )

    try:
        run_stage(spec, report)
    except Exception as error:
        # It would fail again: recorded for the driver instead of spending restarts on it. Restarts are for workers
        # that die. Other ranks may be waiting for this one in a collective, so only a single worker can just return.
        write_json(recorded, _record(error))
        if parallel.world_size() > 1:
            raise


def _record(error: Exception) -> dict[str, str]:
    message = str(error) if isinstance(error, S2DError) else f"{type(error).__name__}: {error}"
    return {"type": type(error).__name__, "message": message}


def _recorded(directory: Path) -> S2DError:
    recorded = json.loads((directory / ERROR).read_text())
    known = getattr(errors, recorded["type"], None)
    return known(recorded["message"]) if known else StageError(f"{recorded['message']}; see {directory / 'stage.log'}")


def _explain(spec: StageSpec, directory: Path, error: Exception) -> S2DError:
    """The stage's own error if that is what ended it, else the last line of what Ray saw."""
    if (directory / ERROR).exists():
        return _recorded(directory)
    failures = getattr(error, "worker_failures", None) or {}
    first = next(iter(failures.values()), error)
    lines = str(first).strip().splitlines()
    return StageError(f"{spec.id} failed: {lines[-1] if lines else type(first).__name__}; see {directory}")
