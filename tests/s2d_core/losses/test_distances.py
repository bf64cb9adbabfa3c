"""Distances to the teacher at each token, against their definitions over full logits in float64."""

import torch

from s2d_core.losses import token_distances

TOKENS, VOCAB = 7, 12


def made(seed: int, hidden: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hiddens = torch.randn(TOKENS, hidden, generator=generator, dtype=torch.float64)
    return hiddens, torch.randn(VOCAB, hidden, generator=generator, dtype=torch.float64)


def test_each_measure_equals_its_definition_whatever_the_chunk():
    (ours, our_head), (theirs, their_head) = made(0, 4), made(1, 6)
    targets = torch.arange(TOKENS) % VOCAB
    student, teacher = (ours @ our_head.T).log_softmax(-1), (theirs @ their_head.T).log_softmax(-1)
    kl = (student.exp() * (student - teacher)).sum(-1)
    logits = (ours @ our_head.T).requires_grad_()
    chosen = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    reward = (teacher - student).gather(1, targets[:, None]).squeeze(1)
    (gradient,) = torch.autograd.grad((reward * chosen).sum(), logits)
    for chunk in (2, 100):
        found = token_distances(ours, our_head, theirs, their_head, targets, chunk=chunk)
        for name, wanted in {
            "kl": kl,
            "student_entropy": -(student.exp() * student).sum(-1),
            "teacher_entropy": -(teacher.exp() * teacher).sum(-1),
            "gradient": gradient.norm(dim=1),
        }.items():
            torch.testing.assert_close(found[name].double(), wanted, rtol=1e-5, atol=1e-6)


def test_a_student_that_is_its_teacher_is_at_no_distance():
    hidden, head = made(0, 4)
    found = token_distances(hidden, head, hidden, head, torch.arange(TOKENS))
    assert float(found["kl"].abs().max()) < 1e-6
    assert float(found["gradient"].abs().max()) < 1e-6
    assert found["overlap"].tolist() == [1.0] * TOKENS
