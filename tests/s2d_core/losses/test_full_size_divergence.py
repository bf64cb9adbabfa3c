"""The chunked divergence at 4096 tokens and Qwen3's vocabulary against whole float32 logits: value, gradients, peak."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# The whole form takes the tokens in eight blocks, so that it fits small machines: a sum over tokens splits anywhere.
PROGRAM = """
import json, re, torch
from pathlib import Path
from s2d_core.losses import chunked_divergence

torch.manual_seed(0)
tokens, vocab, hidden, block = 4096, 151_936, 32, 512
student = torch.randn(tokens, hidden), torch.randn(vocab, hidden) / 4
teacher = torch.randn(tokens, hidden), torch.randn(vocab, hidden) / 4
weights = torch.full((tokens,), 1 / tokens)

def naive(rows, hidden, head):
    ours, theirs = ((h @ w.T).log_softmax(-1) for h, w in ((hidden, head), (teacher[0][rows], teacher[1])))
    return weights[rows] @ torch.nn.functional.kl_div(theirs, ours, reduction="none", log_target=True).sum(-1)

def chunked(rows, hidden, head):
    return chunked_divergence(hidden, head, *teacher, weights, kind="reverse_kl", chunk=32).loss

def memory(what):
    return int(re.search(what + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

def run(loss, size):
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    before = memory("VmRSS")
    value, grads = 0.0, [torch.zeros_like(x) for x in student]
    for start in range(0, tokens, size):
        rows = slice(start, start + size)
        hidden, head = student[0][rows].clone().requires_grad_(), student[1].clone().requires_grad_()
        part = loss(rows, hidden, head)
        part.backward()
        value += part.item()
        grads[0][rows], grads[1] = hidden.grad, grads[1] + head.grad
    return value, grads, memory("VmHWM") - before

value, grads, peak = run(chunked, tokens)
expected, exact, block_peak = run(naive, block)
errors = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(grads, exact)]
print(json.dumps({"value": value, "expected": expected, "errors": errors, "peak": peak, "block_peak": block_peak}))
"""


@pytest.mark.slow
def test_4096_tokens_of_151936_logits_equal_the_whole_in_an_eighth_of_its_memory():
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["value"] == pytest.approx(measured["expected"], abs=1e-4)
    assert max(measured["errors"]) < 1e-4
    assert measured["peak"] <= measured["block_peak"], "what an eighth of the tokens need whole"
