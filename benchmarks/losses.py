"""The chunked divergence against whole logits and against the kernels of TRL and Liger, where they are installed:
seconds, peak extra memory, gradient error in bfloat16.

    python benchmarks/losses.py [--tokens 256] [--vocab 151936] [--hidden 64] [--chunks 32 128] [--repeats 3]

``floor`` is the time of the matrix products alone: logits of student and teacher, gradients of hidden states and head.
On a CPU times are CPU seconds of one thread, so that other work on the machine counts little; on a GPU they are wall
time after synchronisation. Gradient error: relative L2 of bfloat16 inputs against float64, on sharp logits.
"""

import argparse
import importlib.metadata
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from recording import record, spread
from torch import Tensor

from s2d_core.losses import chunked_divergence

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
Loss = Callable[[Inputs], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--chunks", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    given = inputs(arguments.tokens, arguments.vocab, arguments.hidden)
    forms: dict[str, Loss] = {f"chunk {size}": chunked(size) for size in arguments.chunks}
    forms |= libraries()
    forms["whole logits"] = whole
    floor = spread([clocked(lambda: products(given)) for _ in range(arguments.repeats)])
    measured = {"floor": {"seconds": floor}}
    for name, loss in forms.items():  # whole logits last: their peak does not hide the others'
        runs = [run(loss, given) for _ in range(arguments.repeats)]
        seconds = spread([seconds for seconds, _ in runs])
        measured[name] = {
            "seconds": seconds,
            "times_floor": {"median": seconds["median"] / floor["median"]},
            "peak_extra_mib": spread([peak / 2**20 for _, peak in runs]),
        }
    shape = {"tokens": arguments.tokens, "vocab": arguments.vocab, "hidden": arguments.hidden}
    record("losses", {**shape, "forms": measured, "gradient_error": gradient_errors()})


def inputs(tokens: int, vocab: int, hidden: int) -> Inputs:
    """Student and teacher; logits have a standard deviation of 2."""
    torch.manual_seed(0)
    scale = 2 / hidden**0.5
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    made = (torch.randn(tokens, hidden), scale * torch.randn(vocab, hidden))
    other = (torch.randn(tokens, hidden), scale * torch.randn(vocab, hidden))
    hidden_s, head_s, hidden_t, head_t = (x.to(device, dtype) for x in (*made, *other))
    return hidden_s.requires_grad_(), head_s.requires_grad_(), hidden_t, head_t


def chunked(size: int) -> Loss:
    def loss(given: Inputs) -> Tensor:
        weights = torch.full((len(given[0]),), 1 / len(given[0]), device=given[0].device)
        return chunked_divergence(*given, weights, kind="reverse_kl", chunk=size).loss

    return loss


def whole(given: Inputs) -> Tensor:
    hidden, head, hidden_t, head_t = (x.float() if x.dtype == torch.bfloat16 else x for x in given)
    ours, theirs = (hidden @ head.T).log_softmax(-1), (hidden_t @ head_t.T).log_softmax(-1)
    return torch.nn.functional.kl_div(theirs, ours, reduction="batchmean", log_target=True)


def libraries() -> dict[str, Loss]:
    """Reverse KL by the kernels of others, each if its package is installed."""
    found: dict[str, Loss] = {}
    with suppress(ImportError):
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

        def trl(given: Inputs) -> Tensor:
            hidden, head, hidden_t, head_t = given
            part, _ = ChunkedDivergenceFunction.apply(hidden, head, None, hidden_t, head_t, None, 1.0)  # type: ignore
            return part.mean()  # type: ignore[no-any-return]

        found[f"trl {importlib.metadata.version('trl')}"] = trl
    with suppress(ImportError):
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        fused = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=1.0, compiled=False)

        def liger(given: Inputs) -> Tensor:
            hidden, head, hidden_t, head_t = given
            labels = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
            return fused(hidden, head, hidden_t.detach(), head_t.detach(), labels)  # type: ignore[no-any-return]

        found[f"liger {importlib.metadata.version('liger-kernel')}"] = liger
    return found


@torch.no_grad()
def products(given: Inputs) -> None:
    hidden, head, hidden_t, head_t = (x.detach() for x in given)
    logits = hidden @ head.T
    logits = hidden_t @ head_t.T
    _ = logits @ head
    _ = logits.T @ hidden


def run(loss: Loss, given: Inputs) -> tuple[float, int]:
    """Seconds and extra bytes of a forward and a backward pass."""
    for each in given[:2]:
        each.grad = None
    before = reset_peak()
    seconds = clocked(lambda: loss(given).backward())
    return seconds, peak() - before


def clocked(work: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        return time.perf_counter() - began
    began = time.process_time()
    work()
    return time.process_time() - began


def reset_peak() -> int:
    """Forget the peak so far; returns the bytes in use."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark becomes what is resident now
    return peak()


def peak() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def gradient_errors() -> dict[str, dict[str, float]]:
    """Of hidden states and head, for bfloat16 inputs whose logits have a standard deviation of 8 and 10."""
    torch.manual_seed(0)
    shapes = ((64, 64), (2048, 64), (64, 100), (2048, 100))
    rounded = [torch.randn(shape).bfloat16() for shape in shapes]
    forms = {"chunk 16": chunked(16), **libraries()}
    exact = gradients(whole, [x.double() for x in rounded])
    errors = {}
    for name, loss in forms.items():
        found = gradients(loss, rounded)
        apart = [float((ours.double() - right).norm() / right.norm()) for ours, right in zip(found, exact, strict=True)]
        errors[name] = dict(zip(("hidden", "head"), apart, strict=True))
    return errors


def gradients(loss: Loss, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Of the student's hidden states and head."""
    hidden, head, hidden_t, head_t = inputs
    given = (hidden.clone().requires_grad_(), head.clone().requires_grad_(), hidden_t, head_t)
    return torch.autograd.grad(loss(given), given[:2])


if __name__ == "__main__":
    main()
