"""Rollout workers: token ids in, sampled completions and their log-probabilities out."""

from s2d_core.rollouts.build import make_engine

__all__ = ["make_engine"]
