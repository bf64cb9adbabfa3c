"""Weights that make a step's loss a plain sum."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_core.losses import token_weights

FEW = settings(max_examples=25, deadline=None)  # a first call may be slow on a busy machine

LENGTHS = torch.tensor([1, 3])


def test_token_mean_gives_every_token_of_the_step_the_same_weight():
    weights = token_weights(LENGTHS, "token_mean", total_tokens=8, total_sequences=2, max_tokens=5)
    assert weights.tolist() == [0.125] * 4


def test_sequence_mean_shares_each_sequence_s_weight_among_its_tokens():
    weights = token_weights(LENGTHS, "sequence_mean", total_tokens=4, total_sequences=2, max_tokens=5)
    assert weights.tolist() == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])


def test_constant_divides_by_the_length_limit_whatever_the_lengths():
    weights = token_weights(LENGTHS, "constant", total_tokens=4, total_sequences=2, max_tokens=5)
    assert weights.tolist() == pytest.approx([0.1] * 4)


lengths = st.lists(st.integers(1, 9), min_size=1, max_size=8)


@FEW
@given(lengths, st.integers(0, 8), st.sampled_from(["token_mean", "sequence_mean", "constant"]))
def test_weights_of_the_parts_of_a_batch_are_the_weights_of_the_batch(lengths, cut, normalisation):
    totals = {"total_tokens": sum(lengths), "total_sequences": len(lengths), "max_tokens": 9}
    whole = token_weights(torch.tensor(lengths), normalisation, **totals)
    parts = [
        token_weights(torch.tensor(part, dtype=torch.long), normalisation, **totals)
        for part in (lengths[:cut], lengths[cut:])
    ]
    assert torch.equal(torch.cat(parts), whole)


@FEW
@given(lengths, st.sampled_from(["token_mean", "sequence_mean"]))
def test_weights_of_a_mean_sum_to_one(lengths, normalisation):
    totals = {"total_tokens": sum(lengths), "total_sequences": len(lengths), "max_tokens": 9}
    assert token_weights(torch.tensor(lengths), normalisation, **totals).sum().item() == pytest.approx(1.0, abs=1e-5)


def test_a_batch_without_tokens_has_no_weights():
    none = torch.zeros(0, dtype=torch.long)
    assert token_weights(none, "token_mean", total_tokens=0, total_sequences=0, max_tokens=5).shape == (0,)
