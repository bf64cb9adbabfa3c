"""Objectives of the stage table's rows against formulas written out over full logits, in float64."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from s2d_core.config.stages import DivergenceConfig, MixedStage
from s2d_core.training.objectives import Divergence, Mixed, PolicyGradient
from s2d_core.training.packing import Example, pack
from s2d_core.training.policy import Policy

REVERSE = DivergenceConfig(kind="reverse_kl")
EXAMPLES = [
    Example([1, 2, 3], [4, 5], [-3.0, -2.5], advantage=1.0),
    Example([6], [7, 8, 9, 10], [-2.0, -3.5, -3.0, -2.7], advantage=-0.5),
]


def policy(seed: int) -> Policy:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
        initializer_range=0.5,
    )
    return Policy(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").double())


@pytest.fixture
def micro():
    packed = pack(EXAMPLES, [torch.full((len(each.completion_ids),), 1 / 6) for each in EXAMPLES])
    packed.weights, packed.advantages = packed.weights.double(), packed.advantages.double()
    packed.sampler_logprobs = packed.sampler_logprobs.double()
    return packed


def mixed_stage(sparse_weight: float) -> MixedStage:
    return MixedStage.model_validate(
        {
            "steps": 1,
            "prompts_per_step": 2,
            "group_size": 2,
            "optimiser": {"lr": 1e-3},
            "sampling": {"max_tokens": 4},
            "divergence": REVERSE.model_dump(),
            "sparse_weight": sparse_weight,
        }
    )


def logits(model: Policy, micro) -> torch.Tensor:
    """[predictions, vocab]"""
    return model(micro, lambda hidden, head: hidden @ head.T)


def reverse_kl(student_logits: torch.Tensor, target_logits: torch.Tensor) -> torch.Tensor:
    """KL(student‖target) of each prediction: [predictions]"""
    student, target = student_logits.log_softmax(-1), target_logits.log_softmax(-1)
    return (student.exp() * (student - target)).sum(-1)


def gradients(model: Policy, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_the_delta_target_is_the_start_plus_what_training_changed_in_the_teacher(micro):
    student, start, teacher, raw = policy(0), policy(1), policy(2), policy(3)
    objective = Divergence(REVERSE, chunk=4, target=[(teacher, 1.0), (start, 1.0), (raw, -1.0)])
    ours = objective(student, micro, None).loss
    with torch.no_grad():
        target = logits(start, micro) + logits(teacher, micro) - logits(raw, micro)
    theirs = (micro.weights * reverse_kl(logits(student, micro), target)).sum()
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-7)
    for a, b in zip(gradients(student, ours), gradients(student, theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_delta_of_a_teacher_that_did_not_change_holds_the_student_where_it_started(micro):
    start, raw = policy(1), policy(3)
    objective = Divergence(REVERSE, chunk=4, target=[(raw, 1.0), (start, 1.0), (raw, -1.0)])
    assert float(objective(policy(1), micro, None).loss.detach()) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("sparse_weight", [0.25, 0.9])
def test_mixed_is_the_weighted_sum_of_policy_gradient_and_divergence(micro, sparse_weight):
    student, teacher = policy(0), policy(2)
    stage = mixed_stage(sparse_weight)
    sparse = PolicyGradient(stage, chunk=4, reference=None)
    objective = Mixed(sparse, Divergence(REVERSE, 4, [(teacher, 1.0)]), sparse_weight)
    old = sparse.logprobs(student, micro)[0].detach()
    ours = objective(student, micro, old)

    logprobs = logits(student, micro).log_softmax(-1)
    chosen = logprobs.gather(-1, micro.targets[:, None]).squeeze(-1)
    correction = (
        (chosen.detach() - micro.sampler_logprobs).exp().clamp(max=stage.policy_gradient.truncated_importance_cap)
    )
    surrogate = -(correction * (chosen - chosen.detach()).exp() * micro.advantages)
    with torch.no_grad():
        target = logits(teacher, micro)
    dense = reverse_kl(logits(student, micro), target)
    theirs = (micro.weights * (sparse_weight * surrogate + (1 - sparse_weight) * dense)).sum()
    torch.testing.assert_close(ours.loss.double(), theirs, rtol=1e-5, atol=1e-6)
    for a, b in zip(gradients(student, ours.loss), gradients(student, theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_mixed_reads_the_policy_once(micro):
    student, calls = policy(0), []
    student.register_forward_hook(lambda *_: calls.append(1))
    sparse = PolicyGradient(mixed_stage(0.5), 4, None)
    Mixed(sparse, Divergence(REVERSE, 4, [(policy(2), 1.0)]), 0.5)(student, micro, micro.sampler_logprobs)
    assert len(calls) == 1
