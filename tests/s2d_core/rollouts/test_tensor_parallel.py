"""One vLLM engine over two processes, inside a Ray actor, against the model itself."""

import pytest
import ray
from tiny_models import EOS, exact_logprobs, make_requests, tiny_model

from s2d_core.config.schema import RolloutsConfig
from s2d_core.rollouts import make_engine
from s2d_core.rollouts.types import Sampling

pytestmark = [pytest.mark.slow, pytest.mark.vllm]


@pytest.fixture
def engine(model_folder):
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    config = RolloutsConfig(engine="vllm", workers=1, tensor_parallel=2, timeout_s=300)
    made = make_engine(model_folder, config, eos_token_id=EOS, dtype="float32", max_length=64)
    yield made
    made.close()
    ray.shutdown()


def test_an_engine_over_two_processes_samples_from_the_model_and_takes_new_weights(engine):
    for model in (tiny_model(), tiny_model(seed=1)):
        engine.load_weights(model.named_parameters())
        for (rollout,) in engine.generate(make_requests(8), Sampling(max_tokens=10)):
            assert rollout.logprobs == pytest.approx(exact_logprobs(model, rollout), abs=1e-4)
