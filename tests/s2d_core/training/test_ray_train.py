"""What a training worker of a Ray Train job does around its stage."""

from ranks import context

from s2d_core.spec import StageResult
from s2d_core.training.ray_train import ERROR, _worker


def test_a_new_try_forgets_what_survivors_of_the_last_one_recorded_of_a_rank_that_died(tmp_path):
    made = context(tmp_path)
    spec = made.spec
    made.store.commit(spec, StageResult(fingerprint=spec.fingerprint, name=spec.name, kind=spec.kind))
    (made.directory / ERROR).write_text('{"type": "RuntimeError", "message": "Connection reset by peer"}')
    _worker({"spec": spec.model_dump(mode="json")})
    assert not (made.directory / ERROR).exists()
