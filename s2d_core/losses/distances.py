"""How far a student is from its teacher at each token of given sequences. Measures; trains nothing."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from s2d_core.losses.chunking import for_each_chunk
from s2d_core.losses.divergences import TeacherLogprobs, divergence, token_statistics


@torch.no_grad()
def token_distances(
    student_hidden: Float[Tensor, "tokens student_hidden"],
    student_weight: Float[Tensor, "student_vocab student_hidden"],
    teacher_hidden: Float[Tensor, "tokens teacher_hidden"],
    teacher_weight: Float[Tensor, "teacher_vocab teacher_hidden"],
    targets: Int[Tensor, "tokens"],
    *,
    chunk: int = 4096,
) -> dict[str, Float[Tensor, "tokens"]]:
    """For each token, sampled by the student as ``targets``: ``kl``, KL(student‖teacher) over the full vocabulary;
    ``student_entropy``, ``teacher_entropy`` and ``overlap`` (the shared part of the two top-8s); ``gradient``.

    ``gradient`` is the length of the token's term in OPD's policy gradient, with respect to the student's logits:
    |Â| · ‖onehot(y) − s‖₂, where Â = log t(y) − log s(y) is the implicit reward (paper v4, Eq. 3).
    """
    teacher = TeacherLogprobs(student_weight, teacher_hidden, teacher_weight, temperature=1.0)
    parts: list[dict[str, Tensor]] = []

    def visit(logits: Tensor, rows: slice) -> None:
        ours, theirs = torch.log_softmax(logits[:, : teacher.vocab], dim=-1), teacher(rows)
        sampled = targets[rows, None]
        implicit_reward = (theirs.gather(1, sampled) - ours.gather(1, sampled)).squeeze(1)
        descent = ours.exp().scatter_add_(1, sampled, torch.full_like(sampled, -1.0, dtype=ours.dtype))
        parts.append(
            {
                "kl": divergence(ours, theirs, "reverse_kl"),
                "gradient": implicit_reward.abs() * descent.norm(dim=1),
                **token_statistics(ours, theirs),
            }
        )

    for_each_chunk(student_hidden, student_weight, chunk, visit)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
