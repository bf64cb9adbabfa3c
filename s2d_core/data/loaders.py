"""Reads a person's own problems from JSON, JSON lines or Parquet. Knows no splits."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2d_core.config.inputs import FilesConfig
from s2d_core.data.problems import Problem
from s2d_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]
SHOWN = 5  # offenders named in a message


def load_problems(
    files: FilesConfig, path: str | None = None, tokenizer: "PreTrainedTokenizerBase | None" = None
) -> list[Problem]:
    """Every problem in ``path`` (by default ``files.train``), in file order, all with an answer.

    Field names may be dotted (``reward_model.ground_truth``). A prompt is text, or a chat: a list of
    ``{"role", "content"}`` messages that ends with the user's. ``files.template`` is applied to the user's text,
    and with ``files.chat`` the tokenizer's chat template to the whole. Without ``files.id_field`` an id is made
    of the row's position and a hash of its prompt.

    Raises DataError for a missing, empty or truncated file, an absent field, an answer that is missing or does
    not match ``files.answer_pattern``, and duplicate ids; ConfigError for an unusable pattern or template.
    """
    pattern = _answer_pattern(files)
    if "{prompt}" not in files.template:
        raise ConfigError(f"data.files.template = {files.template!r}: must contain {{prompt}}, the problem's text")
    source = Path(path or files.train)
    problems: list[Problem] = []
    unanswered: list[str] = []
    for place, row in _rows(source):
        prompt = _prompt(_field(row, files.prompt_field, source, place), files, tokenizer, f"{source}, {place}")
        answer = _answer(_field(row, files.answer_field, source, place), pattern)
        if files.id_field is None:
            problem_id = f"{len(problems)}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
        else:
            problem_id = str(_field(row, files.id_field, source, place))
        if answer is None:
            unanswered.append(f"{problem_id} ({place})")
        problems.append(Problem(id=problem_id, prompt=prompt, answer=answer))
    if not problems:
        raise DataError(f"{source}: holds no problems; give a file with at least one row")
    if unanswered:
        wanted = f" that matches data.files.answer_pattern {pattern.pattern!r}" if pattern else ""
        raise DataError(
            f"{source}: {len(unanswered)} of {len(problems)} problems have no answer{wanted} in field "
            f"{files.answer_field!r}: {_first(unanswered)}. Complete or remove these rows"
        )
    if repeated := [name for name, count in Counter(p.id for p in problems).items() if count > 1]:
        raise DataError(
            f"{source}: {len(repeated)} ids of field {files.id_field!r} occur more than once: {_first(repeated)}. "
            "Make them unique, or leave data.files.id_field empty"
        )
    return problems


def _answer_pattern(files: FilesConfig) -> re.Pattern[str] | None:
    if files.answer_pattern is None:
        return None
    try:
        pattern = re.compile(files.answer_pattern)
    except re.error as error:
        raise ConfigError(
            f"data.files.answer_pattern = {files.answer_pattern!r}: not a regular expression ({error})"
        ) from error
    if pattern.groups < 1:
        raise ConfigError(
            f"data.files.answer_pattern = {files.answer_pattern!r}: needs a group (...) around the answer"
        )
    return pattern


def _answer(value: Any, pattern: re.Pattern[str] | None) -> str | None:
    """The answer's text; with a pattern, the first group of its last match. None where there is none."""
    text = "" if value is None else str(value)
    if pattern is not None:
        matches = list(pattern.finditer(text))
        text = (matches[-1].group(1) or "") if matches else ""
    return text.strip() or None


def _prompt(value: Any, files: FilesConfig, tokenizer: "PreTrainedTokenizerBase | None", where: str) -> str:
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(m, dict) and isinstance(m.get("content"), str) and m.get("role") for m in messages)
        or messages[-1]["role"] != "user"
        or not messages[-1]["content"].strip()
    ):
        raise DataError(
            f"{where}: field {files.prompt_field!r} must be text, or a list of role/content messages that ends "
            f"with the user's; it is {str(value)[:80]!r}"
        )
    text = files.template.replace("{prompt}", messages[-1]["content"])
    if not files.chat:
        if len(messages) > 1:
            raise DataError(f"{where}: the prompt has {len(messages)} chat messages; set data.files.chat=true")
        return text
    if tokenizer is None or not tokenizer.chat_template:
        raise DataError("data.files.chat = true: the model's tokenizer has no chat template; set it to false")
    return str(
        tokenizer.apply_chat_template(
            [*messages[:-1], {"role": "user", "content": text}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=files.enable_thinking,
        )
    )


def _field(row: Row, dotted: str, source: Path, place: str) -> Any:
    value: Any = row
    for part in dotted.split("."):
        if not isinstance(value, dict) or part not in value:
            raise DataError(f"{source}, {place}: no field {dotted!r}; there are {', '.join(_names(row)) or 'none'}")
        value = value[part]
    return value


def _names(row: Row, prefix: str = "") -> Iterator[str]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _rows(source: Path) -> Iterator[tuple[str, Row]]:
    """Pairs of (place to name in a message, row)."""
    if not source.is_file():
        raise DataError(f"{source}: no such file; give the path of a .jsonl, .json or .parquet file")
    if source.suffix == ".parquet":
        yield from _parquet_rows(source)
    elif source.suffix in (".jsonl", ".json"):
        try:
            text = source.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{source}: not UTF-8 text ({error})") from error
        yield from _json_rows(source, text) if text.lstrip().startswith("[") else _json_lines(source, text)
    else:
        raise DataError(f"{source}: files ending in {source.suffix!r} cannot be read; allowed: .jsonl, .json, .parquet")


def _parquet_rows(source: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(source).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source}: not a whole Parquet file ({error}); fetch or write it again") from error
    yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _json_rows(source: Path, text: str) -> Iterator[tuple[str, Row]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{source}, line {error.lineno}: {_broken(error)}") from error
    yield from (
        (f"entry {number}", _object(row, source, f"entry {number}")) for number, row in enumerate(rows, start=1)
    )


def _json_lines(source: Path, text: str) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{source}, line {number}: {_broken(error)}") from error
            yield f"line {number}", _object(row, source, f"line {number}")


def _broken(error: json.JSONDecodeError) -> str:
    return f"not valid JSON ({error.msg} at column {error.colno}); is the file truncated there?"


def _object(row: Any, source: Path, place: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{source}, {place}: must be an object with named fields; it is {str(row)[:80]!r}")
    return row


def _first(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
