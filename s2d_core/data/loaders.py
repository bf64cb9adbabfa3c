"""Reads a person's own problems from JSON, JSON lines, Parquet or a data set of the Hub. Knows no splits."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2d_core.config.inputs import FilesConfig, SourceConfig
from s2d_core.data.problems import Problem
from s2d_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]
FILES = (".jsonl", ".json", ".parquet")
SHOWN = 5  # offenders named in a message


def load_problems(
    files: FilesConfig,
    given: str | SourceConfig | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    name: str = "",
) -> list[Problem]:
    """Every problem in ``given`` (by default ``files.train``), in its order, all with an answer.

    Field names may be dotted (``reward_model.ground_truth``). A prompt is text, or a chat: a list of
    ``{"role", "content"}`` messages that ends with the user's. ``files.template`` is applied to the user's text,
    and with ``files.chat`` the tokenizer's chat template to the whole. Without ``files.id_field`` an id is made
    of the row's position and a hash of its prompt. ``name``: of a test set; its ids begin with it.

    Raises DataError for a missing, empty or truncated file, an absent field, an answer that is missing or does
    not match ``files.answer_pattern``, and duplicate ids; ConfigError for an unusable pattern or template.
    """
    mapping = files.source(given or files.train)
    pattern = _pattern("answer_pattern", mapping.answer_pattern)
    around = _pattern("prompt_pattern", mapping.prompt_pattern)
    if "{prompt}" not in files.template:
        raise ConfigError(f"data.files.template = {files.template!r}: must contain {{prompt}}, the problem's text")
    source, prefix = Path(mapping.path), f"{name}/" if name else ""
    problems: list[Problem] = []
    unanswered: list[str] = []
    for place, row in _rows(mapping):
        written = _field(row, mapping.prompt_field, source, place)
        prompt = _prompt(written, files, mapping.prompt_field, around, tokenizer, f"{source}, {place}")
        answer = _extract(_field(row, mapping.answer_field, source, place), pattern)
        if mapping.id_field is None:
            problem_id = f"{len(problems)}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
        else:
            problem_id = str(_field(row, mapping.id_field, source, place))
        if answer is None:
            unanswered.append(f"{problem_id} ({place})")
        problems.append(Problem(id=prefix + problem_id, prompt=prompt, answer=answer))
    if not problems:
        raise DataError(f"{source}: holds no problems; give a file with at least one row")
    if unanswered:
        wanted = f" that matches data.files.answer_pattern {pattern.pattern!r}" if pattern else ""
        raise DataError(
            f"{source}: {len(unanswered)} of {len(problems)} problems have no answer{wanted} in field "
            f"{mapping.answer_field!r}: {_first(unanswered)}. Complete or remove these rows"
        )
    if repeated := [name for name, count in Counter(p.id for p in problems).items() if count > 1]:
        raise DataError(
            f"{source}: {len(repeated)} ids of field {mapping.id_field!r} occur more than once: {_first(repeated)}. "
            "Make them unique, or leave data.files.id_field empty"
        )
    return problems


def _pattern(key: str, written: str | None) -> re.Pattern[str] | None:
    if written is None:
        return None
    try:
        pattern = re.compile(written)
    except re.error as error:
        raise ConfigError(f"data.files.{key} = {written!r}: not a regular expression ({error})") from error
    if pattern.groups < 1:
        raise ConfigError(f"data.files.{key} = {written!r}: needs a group (...) around the {key.split('_')[0]}")
    return pattern


def _extract(value: Any, pattern: re.Pattern[str] | None) -> str | None:
    """The value's text; with a pattern, the first group of its last match. None where there is none."""
    text = "" if value is None else str(value)
    if pattern is not None:
        matches = list(pattern.finditer(text))
        text = (matches[-1].group(1) or "") if matches else ""
    return text.strip() or None


def _prompt(
    value: Any,
    files: FilesConfig,
    name: str,
    around: re.Pattern[str] | None,
    tokenizer: "PreTrainedTokenizerBase | None",
    where: str,
) -> str:
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(m, dict) and isinstance(m.get("content"), str) and m.get("role") for m in messages)
        or messages[-1]["role"] != "user"
        or not messages[-1]["content"].strip()
    ):
        raise DataError(
            f"{where}: field {name!r} must be text, or a list of role/content messages that ends "
            f"with the user's; it is {str(value)[:80]!r}"
        )
    content = _extract(messages[-1]["content"], around) if around else messages[-1]["content"]
    if content is None:
        raise DataError(
            f"{where}: the prompt does not match prompt_pattern {around and around.pattern!r}: "
            f"{messages[-1]['content'][:80]!r}; change the pattern or leave it out"
        )
    text = files.template.replace("{prompt}", content)
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


def _rows(mapping: SourceConfig) -> Iterator[tuple[str, Row]]:
    """Pairs of (place to name in a message, row)."""
    source = Path(mapping.path)
    if source.suffix not in FILES:
        if source.is_file():
            raise DataError(
                f"{source}: files ending in {source.suffix!r} cannot be read; allowed: .jsonl, .json, .parquet"
            )
        yield from _data_set_rows(mapping)
    elif not source.is_file():
        raise DataError(f"{source}: no such file; give the path of a .jsonl, .json or .parquet file")
    elif source.suffix == ".parquet":
        yield from _parquet_rows(source)
    else:
        try:
            text = source.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{source}: not UTF-8 text ({error})") from error
        yield from _json_rows(source, text) if text.lstrip().startswith("[") else _json_lines(source, text)


def _data_set_rows(mapping: SourceConfig) -> Iterator[tuple[str, Row]]:
    """From a folder, the Hub, or with HF_HUB_OFFLINE=1 what is in the local cache of it."""
    from datasets import load_dataset

    try:
        rows = load_dataset(mapping.path, mapping.subset, split=mapping.split, revision=mapping.revision)
    except Exception as error:  # the Hub's, pyarrow's and the cache's errors have no common base
        raise DataError(
            f"{mapping.path}, split {mapping.split!r}: neither a data set here nor to be had from the Hub ({error}); "
            "check path, subset, split, revision and the network, or give a .jsonl, .json or .parquet file"
        ) from error
    yield from ((f"row {number}", dict(row)) for number, row in enumerate(rows, start=1))


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
