"""A model folder that engines in other processes can load."""

import pytest
from tiny_models import tiny_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    return folder
