"""Transfers whose wire is this machine's own: what vLLM does around the wire is vLLM's, and engines are real.

``over_a_store``: vLLM's NCCL engines on both sides, tensors going through a TCP store, whose ranks are NCCL's.
``in_calls``: tensors go inside the calls, to engines that need no vLLM.
"""

import json
import time
from pathlib import Path
from unittest.mock import patch

from tiny_models import EOS, tiny_model

from s2d_core.rollouts.torch_engine import TorchEngine
from s2d_core.rollouts.transfer import open_engine
from s2d_core.rollouts.vllm_engine import VLLMEngine, set_environment

STORE = "store"


def receiver_over_a_store(log: Path):
    """The receiver's class. Appends each step, and its rank in the group, to ``log``."""
    from vllm.distributed.utils import StatelessProcessGroup
    from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

    class Receiver(NCCLWeightTransferEngine):
        def note(self, step):
            with log.open("a") as file:
                file.write(f"{self.rank} {step}\n")

        def init_transfer_engine(self, init_info):
            self.rank = init_info.rank_offset + self.parallel_config.rank
            address = init_info.master_address, init_info.master_port
            self.model_update_group = StatelessProcessGroup.create(*address, self.rank, init_info.world_size)
            self.note("init")

        def start_weight_update(self):
            self.note("start")
            super().start_weight_update()

        def receive_weights(self, update_info):
            self.note("update")
            for name in update_info.names:
                self.model.load_weights([(name, self.model_update_group.broadcast(None, src=0))])

        def finish_weight_update(self):
            super().finish_weight_update()
            self.note("finish")

        def shutdown(self):
            self.model_update_group = None

    return Receiver


def vllm_engine(path, log):
    set_environment()
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    WeightTransferEngineFactory.register_engine(STORE, receiver_over_a_store(log))
    return VLLMEngine(str(path), EOS, max_length=192, dtype="float32", batch_size=64, weight_transfer=STORE)


def over_a_store(ranks, client, source):
    """``transfer.open_engine`` for NCCL, with another wire."""
    from vllm.distributed.utils import StatelessProcessGroup
    from vllm.distributed.weight_transfer import WeightTransferTrainerFactory, nccl_engine

    class Sender(nccl_engine.NCCLTrainerWeightTransferEngine):
        def _broadcast(self, source, meta):
            for _, value in self._checked_iter(source, meta):
                self.model_update_group.broadcast(value, src=0)

        def shutdown(self):
            self.model_update_group = None

    def endpoint(info):
        return StatelessProcessGroup.create(info.master_address, info.master_port, 0, info.world_size)

    registered = patch.dict(WeightTransferTrainerFactory._registry, nccl=lambda: Sender)
    with registered, patch.object(nccl_engine, "open_trainer_endpoint", endpoint):
        return open_engine("nccl", ranks, client, source)


class Receiving:
    """A torch engine that takes transferred weights. ``slow``: the call that it takes a minute for. ``wrong``: the one
    that it cannot do."""

    def __init__(self, slow=None, wrong=None, generate_s=0.0):
        self.engine, self.slow, self.wrong, self.arrived = TorchEngine(tiny_model(), EOS), slow, wrong, []
        self.generate_s = generate_s

    def generate(self, requests, sampling):
        time.sleep(self.generate_s)
        return self.engine.generate(requests, sampling)

    def transfer(self, call, *info):
        if call == self.slow:
            time.sleep(60.0)
        if call == self.wrong:
            raise ValueError("no room for weights")
        if call == "start_weight_update":
            self.arrived = []
        if call == "update_weights":
            self.arrived += info[0]["weights"]
        if call == "finish_weight_update":
            self.engine.load_weights(self.arrived)


class Noting:
    """Writes down what it is told."""

    def __init__(self, path):
        self.path = path

    def transfer(self, call, info):
        self.path.write_text(json.dumps([call, info]))


def in_calls(client, source):
    """``transfer.open_engine`` for IPC, with another wire."""
    from vllm.distributed.weight_transfer import TrainerWeightTransferEngine, WeightTransferTrainerFactory

    class Sender(TrainerWeightTransferEngine):
        @classmethod
        def trainer_init(cls, init_info, *, client, source=None):
            client.init_weight_transfer_engine({"packed": init_info.packed})
            return cls(client=client, source=source)

        def send_weights(self):
            self.client.start_weight_update()
            self.client.update_weights({"weights": [(name, value.clone()) for name, value in self.source]})
            self.client.finish_weight_update()

    with patch.dict(WeightTransferTrainerFactory._registry, ipc=lambda: Sender):
        return open_engine("ipc", 1, client, source)


def waiting_without_end(client, source):
    """As ``in_calls``, but a failed call leaves the sender where NCCL's would be left."""
    sender = in_calls(client, source)
    send = sender.send_weights

    def send_weights():
        try:
            send()
        except Exception:
            time.sleep(3600.0)

    sender.send_weights = send_weights
    return sender
