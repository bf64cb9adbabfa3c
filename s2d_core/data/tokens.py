"""Text to token ids, and whether two models read the same ones: dense stages compare distributions row by row.

Knows no model: what a checkpoint's embedding adds in padding rows is given as a number.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from s2d_core.data.problems import Problem
from s2d_core.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 5
Messages = list[dict[str, str]]
ANSWER = "It is 42."
CONVERSATIONS: list[Messages] = [
    [{"role": "user", "content": "What is 6 * 7?"}],
    [
        {"role": "user", "content": "What is 6 * 7?"},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": "Why?"},
    ],
]
# Equal vocabularies can still cut text differently: numbers, runs of spaces, LaTeX, accents, other scripts.
PROBE = "What is  1234+56.78?\n\n\\frac{a_1}{b^2} = \\boxed{-0.5}\tnaïve Größe, 中文 🙂"


def check_tokenizers(
    teacher: "PreTrainedTokenizerBase",
    student: "PreTrainedTokenizerBase",
    *,
    teacher_rows: int | None = None,
    student_rows: int | None = None,
    stops: Mapping[str, Collection[int]] | None = None,
    chat: bool = True,
) -> int:
    """Rows of the vocabulary that teacher and student share; the rest of either model's rows is padding.

    Compares every token's id, the special tokens (padding apart: it is never read), how a probe is cut, and
    with ``chat`` what the chat templates make of the same conversations, thinking and not. ``teacher_rows`` and
    ``student_rows`` are the models' own vocabulary sizes, which may differ as long as they hold every token.
    ``stops``: of ``teacher`` and ``student``, the tokens at which their generation settings end a completion.
    Raises DataError saying the first differences of each kind.
    """
    rows = max(teacher.get_vocab().values()) + 1
    differences = [*_vocabulary(teacher, student), *_specials(teacher, student), *_probe(teacher, student)]
    differences += _stops(stops or {}, student)
    if chat and _renderings(teacher) != _renderings(student):
        differences.append(_template_difference(teacher.chat_template, student.chat_template))
    for role, given in (("teacher", teacher_rows), ("student", student_rows)):
        if given is not None and given < rows:
            differences.append(f"the {role} model has {given} vocabulary rows for {rows} tokens")
    if differences:
        listed = "".join(f"\n- {difference}" for difference in differences)
        raise DataError(
            f"teacher and student must read the same tokens, and they differ:{listed}\n"
            "Choose models of one family, with the same EOS token and chat template"
        )
    return rows


def check_chat(tokenizer: "PreTrainedTokenizerBase", enable_thinking: bool) -> None:
    """Raises DataError when the template ends a turn with another token than EOS, at which sampling stops, or has no
    switch for the thinking that is asked for."""
    turn = [*CONVERSATIONS[0], {"role": "assistant", "content": ANSWER}]
    end = str(tokenizer.apply_chat_template(turn, tokenize=False)).rpartition(ANSWER)[2].lstrip()
    if not end.startswith(str(tokenizer.eos_token)):
        raise DataError(
            f"the chat template ends a turn with {end[:40]!r}, and the EOS token is {tokenizer.eos_token!r}: a model "
            "would not stop where its turn ends. Set eos_token in tokenizer_config.json to what the template ends with"
        )
    if enable_thinking and _render(tokenizer, CONVERSATIONS[0], True) == _render(tokenizer, CONVERSATIONS[0], False):
        raise DataError("data.files.enable_thinking = true: the chat template has no such switch; set it to false")


def encode_prompts(
    tokenizer: "PreTrainedTokenizerBase", problems: Sequence[Problem], max_tokens: int | None = None
) -> list[tuple[int, ...]]:
    """Token ids of every prompt, as it stands; a BOS that the tokenizer adds by itself is there exactly once.

    Raises DataError for prompts that are empty or longer than ``max_tokens``.
    """
    bos = tokenizer.bos_token_id
    prefix = [bos] if bos is not None and bos in tokenizer("")["input_ids"] else []
    encoded = tokenizer([p.prompt for p in problems], add_special_tokens=False)["input_ids"] if problems else []
    prompts = [tuple(ids if ids[:1] == [bos] else prefix + ids) for ids in encoded]
    if empty := [problem.id for problem, ids in zip(problems, encoded, strict=True) if not ids]:
        raise DataError(f"{len(empty)} prompts are empty: {', '.join(empty[:SHOWN])}; remove these problems")
    lengths = {problem.id: len(ids) for problem, ids in zip(problems, prompts, strict=True)}
    if max_tokens is not None and (over := {k: n for k, n in lengths.items() if n > max_tokens}):
        shown = ", ".join(f"{problem_id} ({length})" for problem_id, length in list(over.items())[:SHOWN])
        raise DataError(
            f"{len(over)} of {len(problems)} prompts are longer than the {max_tokens} tokens there is room for: "
            f"{shown}; remove these problems or make room for longer prompts"
        )
    return prompts


def _vocabulary(teacher: "PreTrainedTokenizerBase", student: "PreTrainedTokenizerBase") -> Iterator[str]:
    ours, theirs = teacher.get_vocab(), student.get_vocab()
    if ours == theirs:
        return
    tokens = sorted(
        ours.keys() | theirs.keys(), key=lambda token: min(ours.get(token, 2**62), theirs.get(token, 2**62))
    )
    different = [token for token in tokens if ours.get(token) != theirs.get(token)]
    shown = ", ".join(f"{token!r} is {ours.get(token)} and {theirs.get(token)}" for token in different[:SHOWN])
    yield (
        f"{len(different)} tokens of {len(ours)} (teacher) and {len(theirs)} (student) have other ids; "
        f"first, as teacher's and student's: {shown}"
    )


def _specials(teacher: "PreTrainedTokenizerBase", student: "PreTrainedTokenizerBase") -> Iterator[str]:
    for name in ("eos_token", "bos_token", "unk_token"):
        ours, theirs = getattr(teacher, name), getattr(student, name)
        if ours != theirs:
            yield f"{name}: {ours!r} (teacher) and {theirs!r} (student)"
    one_sided = {*teacher.all_special_tokens} ^ {*student.all_special_tokens}
    if different := sorted(one_sided - {teacher.pad_token, student.pad_token}):
        yield f"special for only one of them: {', '.join(map(repr, different[:SHOWN]))}"


def _probe(teacher: "PreTrainedTokenizerBase", student: "PreTrainedTokenizerBase") -> Iterator[str]:
    ours, theirs = (tokenizer(PROBE)["input_ids"] for tokenizer in (teacher, student))
    if ours != theirs:
        at = _first_difference(ours, theirs)
        yield (
            f"the same text is cut differently from token {at} on: "
            f"{ours[at : at + SHOWN]} (teacher) and {theirs[at : at + SHOWN]} (student)"
        )


def _stops(stops: Mapping[str, Collection[int]], tokenizer: "PreTrainedTokenizerBase") -> Iterator[str]:
    eos = tokenizer.eos_token_id
    for role, tokens in stops.items():
        if tokens and eos not in tokens:
            yield f"EOS is token {eos}, and the {role}'s generation settings stop at {sorted(tokens)} only"
    ours, theirs = (set(stops.get(role, ())) for role in ("teacher", "student"))
    if ours and theirs and ours != theirs:
        yield f"generation settings stop at {sorted(ours)} (teacher) and {sorted(theirs)} (student)"


def _renderings(tokenizer: "PreTrainedTokenizerBase") -> list[str | None]:
    """What the template makes of each conversation, thinking and not; None without a template."""
    if tokenizer.chat_template is None:
        return [None]
    return [_render(tokenizer, messages, thinking) for messages in CONVERSATIONS for thinking in (False, True)]


def _render(tokenizer: "PreTrainedTokenizerBase", messages: Messages, thinking: bool) -> str:
    return str(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking)
    )


def _template_difference(ours: object, theirs: object) -> str:
    if not isinstance(ours, str) or not isinstance(theirs, str):
        return f"chat template: {'given' if ours else 'none'} (teacher) and {'given' if theirs else 'none'} (student)"
    at = _first_difference(ours, theirs)
    return (
        f"chat template, from character {at} on: {ours[at : at + 40]!r} (teacher) and "
        f"{theirs[at : at + 40]!r} (student)"
    )


def _first_difference(ours: Sequence[object], theirs: Sequence[object]) -> int:
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
