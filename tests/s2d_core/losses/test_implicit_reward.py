"""On-policy distillation as policy gradient of the implicit reward (paper v4, Eq. 3), by enumeration, in float64.

A softmax model writes three tokens out of three letters: all 27 sequences y, each token's state s_t being what stands
before it. With r_t = log π_T(y_t|s_t) − log π(y_t|s_t) held fixed, and E over the student's sequences, exactly:

    D = ∇ of Σ_t E KL(π(·|s_t)‖π_T(·|s_t)), the states held fixed     (what chunked_divergence gives: OPD)
      = −E Σ_t ∇log π(y_t|s_t) · r_t                                  (the implicit reward, each token its own)
    G = ∇KL(π(y)‖π_T(y)), over whole sequences
      = −E Σ_t ∇log π(y_t|s_t) · (r_t + r_{t+1} + …)                  (the implicit return)
    G − D = E Σ_t ∇log π(y_t|s_t) · Σ_{u>t} KL(π(·|s_u)‖π_T(·|s_u))   (what a token does to later states)

Values agree whichever way they are summed (the chain rule of KL); gradients D and G differ by that last line, which
is zero only when there is no later state. E ∇log π(y_t|s_t) = 0 is why r_t needs no derivative of its own.
"""

import itertools
from dataclasses import dataclass

import pytest
import torch

from s2d_core.losses import chunked_divergence, chunked_logprobs, policy_gradient, sampled_token_divergence

LETTERS, HIDDEN = 3, 4
CLIP = {"clip_low": 0.2, "clip_high": 0.2}


class Writer:
    """hidden(s) = tanh(Σ of the embeddings of what is written, by position); logits = head · hidden."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.start = torch.randn(HIDDEN, generator=generator, dtype=torch.float64, requires_grad=True)
        self.embedding = torch.randn(3, LETTERS, HIDDEN, generator=generator, dtype=torch.float64, requires_grad=True)
        self.head = torch.randn(LETTERS, HIDDEN, generator=generator, dtype=torch.float64, requires_grad=True)
        self.parameters = (self.start, self.embedding, self.head)

    def hidden(self, sequences: torch.Tensor) -> torch.Tensor:
        """[sequences, length] → the state before every token, [sequences · length, HIDDEN]."""
        rows = []
        for sequence in sequences.tolist():
            state = self.start
            for position, letter in enumerate(sequence):
                rows.append(torch.tanh(state))
                state = state + self.embedding[position, letter]
        return torch.stack(rows)

    def logprobs(self, sequences: torch.Tensor) -> torch.Tensor:
        """log π of every token, [sequences, length]."""
        logits = (self.hidden(sequences) @ self.head.T).view(*sequences.shape, LETTERS)
        return torch.log_softmax(logits, dim=-1).gather(-1, sequences[..., None]).squeeze(-1)


@dataclass
class Toy:
    student: Writer
    teacher: Writer
    sequences: torch.Tensor  # [all sequences, length]
    length: int

    def __post_init__(self) -> None:
        ours, theirs = self.student.logprobs(self.sequences).detach(), self.teacher.logprobs(self.sequences).detach()
        self.reward = theirs - ours  # r_t, [sequences, length]
        self.probability = ours.sum(dim=1).exp()  # of each sequence under the student
        self.weights = self.probability.repeat_interleave(self.length)  # of each token: sums over them are E Σ_t

    def models(self) -> tuple[torch.Tensor, ...]:
        teacher_hidden = self.teacher.hidden(self.sequences)
        return self.student.hidden(self.sequences), self.student.head, teacher_hidden, self.teacher.head

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        parts = torch.autograd.grad(loss, self.student.parameters, allow_unused=True)
        return torch.cat([torch.zeros(0) if part is None else part.flatten() for part in parts])

    def opd(self) -> torch.Tensor:
        return chunked_divergence(*self.models(), self.weights, kind="reverse_kl", chunk=7).loss

    def sequence_kl(self) -> torch.Tensor:
        """Σ_y π(y) (log π(y) − log π_T(y)), differentiated through both of its π."""
        ours = self.student.logprobs(self.sequences).sum(dim=1)
        return (ours.exp() * (ours - self.teacher.logprobs(self.sequences).sum(dim=1).detach())).sum()

    def policy_gradient(self, advantages: torch.Tensor) -> torch.Tensor:
        hidden, head, *_ = self.models()
        logprobs, _ = chunked_logprobs(hidden, head, self.sequences.flatten(), chunk=10)
        return policy_gradient(logprobs, logprobs.detach(), advantages.flatten(), self.weights, **CLIP).loss


def toy(length: int = 3) -> Toy:
    sequences = torch.tensor(list(itertools.product(range(LETTERS), repeat=length)))
    return Toy(Writer(1), Writer(2), sequences, length)


def to_go(reward: torch.Tensor) -> torch.Tensor:
    """r_t + r_{t+1} + …: [sequences, length]."""
    return reward.flip(1).cumsum(dim=1).flip(1)


def test_the_toy_enumerates_a_distribution():
    assert toy().sequences.shape == (27, 3)
    assert toy().probability.sum().item() == pytest.approx(1.0)


def test_opd_is_the_policy_gradient_of_the_implicit_reward_in_expectation():
    t = toy()
    torch.testing.assert_close(t.gradient(t.opd()), t.gradient(t.policy_gradient(t.reward)))


def test_the_sampled_token_estimator_has_the_same_expectation():
    t = toy()
    estimate = sampled_token_divergence(*t.models(), t.sequences.flatten(), t.weights, chunk=7)
    torch.testing.assert_close(t.gradient(estimate.loss), t.gradient(t.opd()))


def test_the_per_token_kls_add_up_to_the_kl_of_sequences():
    t = toy()
    torch.testing.assert_close(t.opd(), t.sequence_kl())


def test_the_sequence_kl_s_gradient_is_the_policy_gradient_of_the_implicit_return():
    t = toy()
    torch.testing.assert_close(t.gradient(t.sequence_kl()), t.gradient(t.policy_gradient(to_go(t.reward))))


def test_opd_leaves_out_exactly_what_a_token_does_to_later_states():
    t = toy()
    hidden, head, teacher_hidden, teacher_head = (x.detach() for x in t.models())
    student, teacher = (hidden @ head.T).log_softmax(-1), (teacher_hidden @ teacher_head.T).log_softmax(-1)
    state_kl = (student.exp() * (student - teacher)).sum(dim=-1).view(27, 3)
    later = to_go(state_kl) - state_kl
    # A policy gradient descends −reward, so the cost of later states enters as a negative advantage.
    left_out = t.gradient(t.policy_gradient(-later))
    difference = t.gradient(t.sequence_kl()) - t.gradient(t.opd())
    torch.testing.assert_close(difference, left_out)
    assert left_out.norm() > 0.01 * t.gradient(t.opd()).norm()


def test_without_later_states_opd_is_the_sequence_kl_s_gradient():
    t = toy(length=1)
    torch.testing.assert_close(t.gradient(t.opd()), t.gradient(t.sequence_kl()))
