"""A teacher's top tokens on disk, with real models: the live estimator's loss, whatever is killed in between."""

import itertools
import weakref

import pytest
import torch
from tiny_geometries import VOCAB, model, teacher

from s2d_core.config.stages import DivergenceConfig
from s2d_core.rollouts.files import write_groups
from s2d_core.rollouts.types import Request, Rollout
from s2d_core.training.objectives import Divergence, StoredDivergence
from s2d_core.training.packing import pack
from s2d_core.training.policy import Policy
from s2d_core.training.teacher_cache import TeacherTopK
from s2d_core.training.verified import example

K = 20


def shards(folder, count=3, seed=0):
    """The requests of ``count`` shards that lie in ``folder``: two prompts each, two completions a prompt."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(least):
        length = int(torch.randint(least, 20, (), generator=generator))
        return torch.randint(VOCAB, (length,), generator=generator).tolist()

    wanted = [Request(f"p{number}", tuple(tokens(1)), number) for number in range(2 * count)]
    groups = [
        [Rollout(r.problem_id, r.prompt_ids, ids, [-1.0] * len(ids), "stop") for ids in (tokens(1), tokens(1))]
        for r in wanted
    ]
    for first in range(0, len(wanted), 2):
        part = slice(first, first + 2)
        write_groups(folder / f"{first}.parquet", wanted[part], groups[part])
    return wanted


def frozen():
    return Policy(teacher().requires_grad_(False))


def cache(load=frozen, k=K):
    return TeacherTopK(load, k, VOCAB, token_budget=64, chunk=8)


def never():
    raise AssertionError("the teacher is loaded")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def value_and_gradients(objective, policy, micro):
    policy.zero_grad()
    output = objective(policy, micro, None)
    output.loss.backward()
    metrics = {name: value.detach() for name, value in output.metrics.items()}
    return output.loss.detach(), [each.grad.clone() for each in policy.parameters()], metrics


@pytest.mark.parametrize(("kind", "temperature"), [("forward_kl", 1.0), ("forward_kl", 1.7), ("reverse_kl", 0.6)])
def test_the_stored_loss_and_gradient_are_those_of_the_live_teacher(tmp_path, kind, temperature):
    """The teacher has rows of padding, which are not the student's."""
    config = DivergenceConfig(kind=kind, teacher_temperature=temperature, estimator="top_k", top_k=K)
    rollouts = [each for group in cache().stored(tmp_path, shards(tmp_path)) for each in group]
    examples = [example(each) for each in rollouts][::-1]  # packed in another way than they were stored
    tokens = sum(len(each.completion_ids) for each in examples)
    micro = pack(examples, [torch.full((len(each.completion_ids),), 1 / tokens) for each in examples])
    student = Policy(model("qwen3"))
    live = value_and_gradients(Divergence(config, 16, [(frozen(), 1.0)]), student, micro)
    stored = value_and_gradients(StoredDivergence(config, 16), student, micro)
    assert live[0] > 1e-2
    torch.testing.assert_close(stored, live, rtol=1e-4, atol=1e-6)


def test_the_teacher_is_loaded_once_and_then_neither_needed_nor_kept(tmp_path):
    made = []

    def load():
        made.append(weakref.ref(policy := frozen()))
        return policy

    requests = shards(tmp_path)
    first = cache(load).stored(tmp_path, requests)
    assert [reference() for reference in made] == [None]
    again = cache(never).stored(tmp_path, requests[::-1])
    assert again == first[::-1]
    cache(load, k=5).stored(tmp_path, requests)
    assert len(made) == 2, "another k is another file"


def mortal():
    """A teacher that dies in its third pass."""
    policy, passes = frozen(), itertools.count(1)

    def die(*_):
        if next(passes) == 3:
            raise KeyboardInterrupt

    policy.register_forward_hook(die)
    return policy


def test_what_a_kill_left_is_kept_and_the_rest_comes_out_the_same(tmp_path):
    calm, hit = tmp_path / "calm", tmp_path / "hit"
    requests = shards(calm)
    assert shards(hit) == requests
    cache().stored(calm, requests)
    with pytest.raises(KeyboardInterrupt):
        cache(mortal).stored(hit, requests)
    (kept,) = hit.glob("*.safetensors")
    before = kept.stat().st_mtime_ns
    cache().stored(hit, requests)
    assert kept.stat().st_mtime_ns == before
    assert contents(hit) == contents(calm)


def test_shards_that_nobody_asked_for_are_left_alone(tmp_path):
    requests = shards(tmp_path)
    cache().stored(tmp_path, requests[:2])
    assert len(contents(tmp_path)) == 1
