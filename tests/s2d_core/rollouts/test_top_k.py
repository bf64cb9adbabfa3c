"""Likeliest tokens on disk: what is read is what was written, and 8 bytes of each."""

import torch

from s2d_core.rollouts.top_k import stored_rows, top_k_path, write_top_k


def test_each_rollout_s_rows_are_read_alone_and_to_the_last_bit(tmp_path):
    lengths, k = [3, 1, 5], 4
    ids, logprobs = torch.randint(200_000, (sum(lengths), k)), torch.randn(sum(lengths), k)
    path = top_k_path(tmp_path / "shard.parquet", k, 200_000)
    write_top_k(path, ids, logprobs)
    rows = stored_rows(path, lengths)
    for each, own_ids, own in zip(rows, ids.split(lengths), logprobs.split(lengths), strict=True):
        read_ids, read = each.read()
        assert torch.equal(read_ids.long(), own_ids)
        assert torch.equal(read, own)
    assert [path.name for path in tmp_path.iterdir()] == ["shard.top4-of-200000.safetensors"]


def test_a_token_takes_eight_bytes_for_each_of_its_k(tmp_path):
    tokens, k = 5000, 20
    write_top_k(tmp_path / "a", torch.zeros(tokens, k, dtype=torch.long), torch.zeros(tokens, k))
    assert 0 <= (tmp_path / "a").stat().st_size - 8 * k * tokens < 1000
