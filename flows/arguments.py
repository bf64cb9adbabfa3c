"""The command line of each flow. Names of arguments are those of the flow's parameters, ``dry_run`` aside."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, get_args

from s2d_core.evaluation.comparison import Verdict

Parser = argparse.ArgumentParser
DEFAULT = "sparse_to_dense"


def parse(words: Sequence[str]) -> tuple[str, argparse.Namespace]:
    """(flow, its arguments). Words that do not begin with a flow's name are arguments of ``sparse_to_dense``."""
    name = words[0] if words and words[0] in FLOWS else DEFAULT
    rest = words[1:] if words and words[0] in FLOWS else words
    about, add = FLOWS[name]
    others = f"flows: {', '.join(FLOWS)} (default: {DEFAULT}); python -m flows FLOW --help"
    parser = Parser(prog=f"python -m flows {name}", description=about, epilog=others)
    parser.add_argument("--recipe", default="small_world", help="shipped recipe or YAML file (default: small_world)")
    add(parser)
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", dest="overrides", help="configuration")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and train nothing")
    return name, parser.parse_args(rest)


def _arms_and_seeds(*seeds: int, arms: str = "all of the recipe's") -> Callable[[Parser], None]:
    def add(parser: Parser) -> None:
        parser.add_argument("--arms", nargs="+", help=f"arms to run (default: {arms})")
        _seeds(parser, *seeds)

    return add


def _expecting(add: Callable[[Parser], None]) -> Callable[[Parser], None]:
    def with_expect(parser: Parser) -> None:
        add(parser)
        parser.add_argument(
            "--expect",
            nargs="+",
            action=_Expectations,
            default={},
            metavar="'CONTRAST=VERDICT'",
            help=f"fail when a contrast's verdict is another; verdicts: {', '.join(get_args(Verdict))}",
        )

    return with_expect


class _Expectations(argparse.Action):
    """``full > direct_grpo=holds`` → {"full > direct_grpo": "holds"}."""

    def __call__(self, parser: Parser, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        expect = {}
        for value in values:
            contrast, _, verdict = value.rpartition("=")
            if not contrast or verdict not in get_args(Verdict):
                raise argparse.ArgumentError(
                    self, f"{value!r}: must read CONTRAST=VERDICT with a verdict of {', '.join(get_args(Verdict))}"
                )
            expect[contrast] = verdict
        setattr(namespace, self.dest, expect)


def _seeds(parser: Parser, *default: int) -> None:
    shown = " ".join(map(str, default))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(default), help=f"default: {shown}")


def _tune(parser: Parser) -> None:
    _arms_and_seeds(0, 1)(parser)
    parser.add_argument(
        "--factors", nargs="+", type=float, default=[0.5, 1.0, 2.0], help="of the recipe's value (default: 0.5 1 2)"
    )
    parser.add_argument("--trials", type=int, default=5, help="for each stage of each arm (default: 5)")
    parser.add_argument("--stages", nargs="+", help="whose rates are searched (default: all of each arm)")


def _allocation(parser: Parser) -> None:
    shares = [0.0, 0.25, 0.5, 0.75, 1.0]
    parser.add_argument(
        "--shares", nargs="+", type=float, default=shares, help="of the labels, upstream (default: 0 0.25 0.5 0.75 1)"
    )
    parser.add_argument("--label-counts", nargs="+", type=int, help="default: 64, 128, ... and all there are")
    _seeds(parser, 0, 1, 2)
    parser.add_argument(
        "--scale", choices=("steps", "epochs"), default="steps", help="what arms have in common (default: steps)"
    )
    parser.add_argument("--upstream", default="full", help="arm whose stages share 1 has (default: full)")
    parser.add_argument("--downstream", default="direct_grpo", help="arm of share 0 (default: direct_grpo)")
    parser.add_argument("--mixed", help="arm of the shares between (default: the stages of both)")


def _evaluate(parser: Parser) -> None:
    parser.add_argument("--checkpoints", nargs="+", default=[], help="Hugging Face model folders or Hub ids")
    parser.add_argument("--arms", nargs="+", default=[], help="arms of the recipe that are trained already")
    _seeds(parser, 0)
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="default: test")


FLOWS: dict[str, tuple[str, Callable[[Parser], None]]] = {
    "sparse_to_dense": (
        "Train, compare and report the arms of a recipe.",
        _expecting(_arms_and_seeds(0, arms="the recipe's default_arms")),
    ),
    "ablations": ("Every arm of a recipe under several seeds.", _expecting(_arms_and_seeds(0, 1, 2, 3, 4))),
    "tune": ("Choose learning rates on the validation split.", _tune),
    "allocation": ("Which share of the labels should go upstream?", _allocation),
    "evaluate": ("Measure checkpoints and finished arms on a recipe's problems.", _evaluate),
}
