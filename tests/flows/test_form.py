"""What Prefect knows of each flow's parameters is what a person reads in the run form."""

import importlib

import pytest

from flows.arguments import FLOWS


@pytest.mark.parametrize("name", FLOWS)
def test_the_run_form_says_what_each_parameter_means(name: str) -> None:
    flow = getattr(importlib.import_module(f"flows.{name}"), name)
    silent = [key for key, field in flow.parameters.properties.items() if not field.get("description")]
    assert flow.parameters.properties and not silent


def test_the_run_form_keeps_defaults_and_types() -> None:
    from flows.sparse_to_dense import sparse_to_dense

    seeds = sparse_to_dense.parameters.properties["seeds"]
    assert (seeds["default"], seeds["items"]) == ([0], {"type": "integer"})
