"""A model folder that engines in other processes can load."""

import pytest
from tiny_models import EOS, OTHER_STOPS, tiny_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = tiny_model()
    model.generation_config.update(eos_token_id=[EOS, *OTHER_STOPS], do_sample=True, temperature=0.3)
    model.save_pretrained(folder)
    return folder
