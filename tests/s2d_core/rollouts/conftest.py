"""A cluster for engines in processes of their own, and a model folder that they can load."""

from pathlib import Path

import pytest
from tiny_models import EOS, OTHER_STOPS, tiny_model


@pytest.fixture(scope="module")
def cluster():
    import ray

    here = str(Path(__file__).parent)
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=100 << 20,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": here, "OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = tiny_model()
    model.generation_config.update(eos_token_id=[EOS, *OTHER_STOPS], do_sample=True, temperature=0.3)
    model.save_pretrained(folder)
    return folder
