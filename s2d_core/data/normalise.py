"""What two copies of a problem have in common: their text without wrappers, spacing and typography.

Every operator, bracket and number is kept, so that equal normal forms mean the same problem. Knows no problems.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from fractions import Fraction

WRAPPED = 10  # a wrapper shows only when at least this many different prompts share it

_SIGNS = str.maketrans({"²": "^2", "³": "^3", "−": "-", "–": "-", "—": "-", "’": "'", "‘": "'"})
_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\!|\{,\}(?=\d{3})", ""),  # 10,\!000 and 10{,}000
        (r"(?<=\d),(?=\d{3}(?!\d))", ""),
        (r"\\?\$|(?<!\\)\\[()\[\]]", " "),  # mathematics begins or ends
        (r"\\[,;:~ ]|~|\\(?:left|right|displaystyle|textstyle|limits|q?quad|[Bb]ig+[lr]?)(?![A-Za-z])", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(le|ge)q(?:slant)?(?![A-Za-z])", r"\\\1"),
        (r"\\neq(?![A-Za-z])", r"\\ne"),
        (r"\\[lc]?dots[bcm]?(?![A-Za-z])|\.\.\.", r" \\dots "),
        (r"\\(?:text|math|operatorname|mbox|rm)(?:rm|bf|it)?\s*\{([^{}]*)\}", r" \1 "),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),  # TeX reads one digit
        (r"([\^_])\s*(\d)", r"\1 \2 "),  # here too
        (r"\{\s*(\d+|[A-Za-z]|\\[A-Za-z]+)\s*\}", r" \1 "),  # braces around one token
        (r"(?<=[A-Za-z]{2})-(?=[A-Za-z]{2})", " "),
        (r"[:;?\"`“”。、]", " "),
    )
]
_TOKEN = re.compile(r"\\[A-Za-z]+|\\\\|[A-Za-z]+|\d+|\S")
_FRACTION = re.compile(r"(-?)\\frac(\d+) (\d+)")


def fold(text: str) -> str:
    """``text`` with every run of white space as one space."""
    return " ".join(text.split())


def tokens(text: str) -> list[str]:
    """The words, numbers, TeX commands and signs of ``text``, spelt one way.

    Words of two letters and more are in lower case; single letters are names and keep theirs. Marks of mathematics
    (``$``, ``\\(``), spacing, braces around one token and punctuation are gone; a comma or point stays between
    two numbers. Each letter of a script without word spaces is a token.
    """
    text = unicodedata.normalize("NFKC", fold(text).translate(_SIGNS))
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    found = _TOKEN.findall(text)
    return [token.lower() if len(token) > 1 else token for token in _unpunctuated(found)]


def _unpunctuated(found: Sequence[str]) -> Iterator[str]:
    for before, token, after in zip(["", *found], found, [*found[1:], ""], strict=False):
        if token not in (",", ".") or (before.isdigit() and after.isdigit()):
            yield token


def answer_key(answer: str) -> str:
    """The same for answers that are equal: ``20`` for 20.0, ``1/2`` for \\frac{1}{2} and 0.5; else their tokens."""
    key = _FRACTION.sub(r"\1\2/\3", " ".join(tokens(answer)).replace("\\frac ", "\\frac"))
    try:
        return str(Fraction(key.replace(" ", "")))
    except (ValueError, ZeroDivisionError):
        return key


def unwrap(files: Sequence[Sequence[str]]) -> list[list[str]]:
    """The prompts of each file without what is around all of them.

    What begins or ends the prompts of all files (a template) goes, and then whole lines that begin or end every
    prompt of one file (a data set's own instructions).
    """
    head, tail = _ends({text for texts in files for text in texts}, least=2)
    bare = [[_cut(text, head, tail) for text in texts] for texts in files]
    for texts in bare:
        head, tail = _ends(set(texts), least=WRAPPED)
        head, tail = head[: head.rfind("\n") + 1], tail[tail.find("\n") if "\n" in tail else len(tail) :]
        texts[:] = [_cut(text, head, tail) for text in texts]
    return bare


def _ends(texts: set[str], least: int) -> tuple[str, str]:
    """The longest common beginning and, of what follows it, the longest common end; neither cuts through a word."""
    if len(texts) < least:
        return "", ""
    head = _shared_beginning(texts)
    while head and any(_in_word(text[len(head) - 1 : len(head) + 1]) for text in texts):
        head = head[:-1]
    tail = _shared_beginning({text[len(head) :][::-1] for text in texts})[::-1]
    while tail and any(_in_word(text[: len(text) - len(tail)][-1:] + tail[0]) for text in texts):
        tail = tail[1:]
    return head, tail


def _shared_beginning(texts: set[str]) -> str:
    first, last = min(texts), max(texts)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length]


def _in_word(pair: str) -> bool:
    return len(pair) == 2 and all(letter.isalnum() or letter == "\\" for letter in pair)


def _cut(text: str, head: str, tail: str) -> str:
    return text[len(head) : len(text) - len(tail)]
