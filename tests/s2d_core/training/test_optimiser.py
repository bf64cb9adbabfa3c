"""Learning-rate schedule and the clipped update."""

from itertools import pairwise

import pytest
import torch

from s2d_core.config.stages import OptimiserConfig
from s2d_core.training.optimiser import learning_rate, make_optimiser, update


def test_the_rate_rises_through_the_warm_up_and_falls_to_its_final_share():
    config = OptimiserConfig(lr=1.0, warmup_steps=4, decay="linear", final_lr_ratio=0.1)
    rates = [learning_rate(config, step, 20) for step in range(21)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == 1.0
    assert all(later < earlier for earlier, later in pairwise(rates[4:]))
    assert rates[20] == pytest.approx(0.1)


@pytest.mark.parametrize(("decay", "middle"), [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)])
def test_each_decay_has_its_shape(decay, middle):
    config = OptimiserConfig(lr=1.0, warmup_steps=0, decay=decay)
    assert learning_rate(config, 10, 20) == pytest.approx(middle)


def test_an_update_reports_the_norm_before_clipping_and_clears_the_gradients():
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    config = OptimiserConfig(lr=0.1, grad_clip=1.0)
    optimiser = make_optimiser([weight], config)
    weight.grad = torch.full((2, 2), 3.0)
    assert update(optimiser, config, lr=0.1) == pytest.approx(6.0)
    assert weight.grad is None
    assert torch.allclose(weight, torch.full((2, 2), -0.1), atol=1e-6)


def test_weight_decay_spares_vectors():
    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    config = OptimiserConfig(lr=0.1, weight_decay=0.5)
    optimiser = make_optimiser([matrix, vector], config)
    matrix.grad, vector.grad = torch.zeros(2, 2), torch.zeros(2)
    update(optimiser, config, lr=0.1)
    assert torch.all(matrix < 1)
    assert torch.all(vector == 1)
