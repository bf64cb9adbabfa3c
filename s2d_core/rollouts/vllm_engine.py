"""vLLM behind the engine protocol: the engine of real runs, on CPU here and on GPUs there. Knows token ids only."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2d_core.rollouts.stragglers import cut, cut_at
from s2d_core.rollouts.types import NamedWeights, Request, Rollout, Sampling

# Read by vLLM when it is imported. In-process engine: weights are handed over as tensors, without a copy through disk.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CONFIGURE_LOGGING": "1",
    "HF_HUB_OFFLINE": "1",
}
SEEDS = 2**31


def set_environment() -> None:
    """Before vLLM is imported; what is set already stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


class VLLMEngine:
    """One vLLM instance. Completions include EOS; log-probabilities are of the distribution sampled from."""

    def __init__(
        self,
        path: str,
        eos_token_id: int,
        *,
        max_length: int,
        dtype: str,
        batch_size: int,
        tensor_parallel: int = 1,
        gpu_memory_utilization: float = 0.9,
        shares_device: bool = False,
        weight_transfer: str | None = None,
    ) -> None:
        """``max_length``: prompt and completion tokens of the longest sequence. ``tensor_parallel``: processes, each on
        a device of its own, that hold the model together. ``gpu_memory_utilization``: share of each GPU's memory that
        the engine takes; without GPUs ``ENVIRONMENT`` says how much. ``shares_device``: with a trainer in this process,
        to which ``sleep`` leaves the memory; one such engine at a time. ``weight_transfer``: the one of vLLM's
        weight-transfer engines that ``transfer`` makes calls to."""
        set_environment()
        from vllm import LLM

        gpu: dict[str, Any] = {}
        self._sleeps = shares_device and torch.cuda.is_available()  # vLLM's CPU backend cannot
        if torch.cuda.is_available():
            gpu = {"gpu_memory_utilization": gpu_memory_utilization, "enable_sleep_mode": self._sleeps}
        self._llm: Any = LLM(
            path,
            dtype=dtype,  # type: ignore[arg-type]
            skip_tokenizer_init=True,
            enforce_eager=not torch.cuda.is_available(),
            max_model_len=max_length,
            max_num_seqs=batch_size,
            logprobs_mode="processed_logprobs",
            # A prompt read in two parts discards a sample, which on CPU a seeded generator cannot take back.
            enable_chunked_prefill=torch.cuda.is_available(),
            max_num_batched_tokens=max(8192, max_length),
            disable_log_stats=True,
            trust_remote_code=False,
            load_format="safetensors",
            tensor_parallel_size=tensor_parallel,
            # Inside a Ray actor vLLM would look for a placement group; the actor has its devices already.
            distributed_executor_backend="mp" if tensor_parallel > 1 else None,
            weight_transfer_config={"backend": weight_transfer} if weight_transfer else None,
            **gpu,
        )
        self.eos_token_id = eos_token_id
        self._spread = tensor_parallel > 1
        self._tied = bool(self._llm.llm_engine.model_config.hf_config.tie_word_embeddings)

    def generate(self, requests: list[Request], sampling: Sampling) -> list[list[Rollout]]:
        """See ``Engine.generate``."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        limited = sampling.group_tokens is not None
        prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
        parameters = [
            SamplingParams(
                n=sampling.n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=sampling.max_tokens,
                # A folder's generation settings may name further stop tokens (Qwen's do): only ours ends a completion.
                ignore_eos=True,
                stop_token_ids=[self.eos_token_id],
                seed=_spread(request.seed),
                logprobs=0,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA if limited else RequestOutputKind.FINAL_ONLY,
            )
            for request in requests
        ]
        if limited:
            return self._within_budget(requests, prompts, parameters, sampling)
        outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        return [
            [self._rollout(request, completion) for completion in output.outputs]
            for request, output in zip(requests, outputs, strict=True)
        ]

    def _within_budget(
        self, requests: list[Request], prompts: list[Any], parameters: list[Any], sampling: Sampling
    ) -> list[list[Rollout]]:
        """Token by token, each group until its budget ends what still runs of it."""
        engine, budget = self._llm.llm_engine, sampling.group_tokens
        assert budget is not None
        groups = [[Rollout(r.problem_id, r.prompt_ids, [], [], "length") for _ in range(sampling.n)] for r in requests]
        for index, (prompt, each) in enumerate(zip(prompts, parameters, strict=True)):
            engine.add_request(str(index), prompt, each)
        while engine.has_unfinished_requests():
            for output in engine.step():
                group = groups[int(output.request_id)]
                for part in output.outputs:
                    self._extend(group[part.index], part)
                running = [len(r.completion_ids) for r in group if r.finish_reason == "length"]
                lengths = [len(rollout.completion_ids) for rollout in group]
                if running and 0 < cut_at(lengths, budget) < min(running):
                    engine.abort_request([output.request_id])
        return [cut(group, budget) for group in groups]

    def _extend(self, rollout: Rollout, part: Any) -> None:
        ids = list(part.token_ids)
        rollout.completion_ids += ids
        rollout.logprobs += [step[token].logprob for step, token in zip(part.logprobs, ids, strict=True)]
        if ids and ids[-1] == self.eos_token_id:
            rollout.finish_reason = "stop"

    def top_logprobs(self, rollouts: list[Rollout], k: int) -> list[tuple[Tensor, Tensor]]:
        """The model's ``k`` likeliest tokens at each token of given completions, and their log-probabilities at
        temperature 1: ([tokens, k], [tokens, k]) a rollout. All that a teacher behind a server can tell of itself.

        For comparison. It needs a token of ``max_length`` beyond the rollout, vLLM's limit of k is 20, and it holds
        [prompt and completion tokens, vocab] in float32: a colocated teacher is exact and takes less memory.
        """
        from vllm import SamplingParams

        prompts = [{"prompt_token_ids": [*rollout.prompt_ids, *rollout.completion_ids]} for rollout in rollouts]
        parameters = SamplingParams(max_tokens=1, prompt_logprobs=k, detokenize=False)
        outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        found = []
        for rollout, output in zip(rollouts, outputs, strict=True):
            positions = output.prompt_logprobs[len(rollout.prompt_ids) :]
            # Besides the k likeliest, each position has the token that is really there.
            ranked = [sorted(at.items(), key=lambda item: item[1].rank)[:k] for at in positions]
            ids = torch.tensor([[token for token, _ in row] for row in ranked])
            found.append((ids, torch.tensor([[scored.logprob for _, scored in row] for row in ranked])))
        return found

    def load_weights(self, weights: NamedWeights) -> None:
        """Reload every parameter from memory and forget cached prefixes, which the old weights computed.

        Wakes a sleeping engine; the KV cache last, when the weights' own buffers are free again.
        """
        handed = with_head(weights, self._tied)
        if self._spread:  # to other processes
            handed = iter([(name, value.cpu()) for name, value in handed])
        asleep = self._llm.llm_engine.is_sleeping()
        if asleep:
            self._llm.wake_up(["weights"])
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": handed})
        self._llm.reset_prefix_cache()
        if asleep:
            self._llm.wake_up(["kv_cache"])

    def transfer(self, call: str, *info: dict[str, Any]) -> None:
        """A call to vLLM's weight-transfer engine in each process; ``rollouts/transfer.py`` decides which and when."""
        self._llm.collective_rpc(call, args=info)
        if call == "finish_weight_update":
            self._llm.reset_prefix_cache()

    def sleep(self) -> None:
        """See ``Engine.sleep``. Level 2 of vLLM: what is loaded next need not be kept in the host's memory."""
        if self._sleeps:
            self._llm.sleep(level=2)

    def close(self) -> None:
        """Shut the engine down; its memory is free when this returns."""
        self._llm.llm_engine.engine_core.shutdown()

    def _rollout(self, request: Request, completion: Any) -> Rollout:
        ids = list(completion.token_ids)
        logprobs = [step[token].logprob for step, token in zip(completion.logprobs, ids, strict=True)]
        reason = "stop" if ids and ids[-1] == self.eos_token_id else "length"
        return Rollout(request.problem_id, request.prompt_ids, ids, logprobs, reason)  # type: ignore[arg-type]


def with_head(weights: NamedWeights, tied: bool) -> Iterator[tuple[str, Tensor]]:
    """Each tensor where it is and as it comes: no copy of the whole model is made on the way."""
    for name, value in weights:
        yield name, value.detach()
        if tied and name == "model.embed_tokens.weight":
            # The CPU backend keeps a repacked head of its own, which a tied model's parameters do not name.
            yield "lm_head.weight", value.detach()


def _spread(seed: int) -> int:
    """vLLM draws a request's i-th completion from its seed + i: hashed, or neighbouring seeds would share draws."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0]) % SEEDS
