"""Options that several commands share."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

EXIT_CODES = (
    "exit codes: 0 done; 2 usage or a missing path; 3 environment (device, disk, memory); "
    "4 bad input data or unreadable model; 5 internal error; 130, 143 stopped by a signal"
)


_NUMBER = r"(\d+(?:\.\d+)?)"
_TIME = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}min)?(?:{_NUMBER}s)?")


def new_parser(verb: str, description: str, *, example: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every command."""
    parser = argparse.ArgumentParser(
        prog=f"siccs_{verb}",
        description=description,
        epilog=f"example:\n  {example}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = parser.add_argument_group("every command")
    common.add_argument(
        "--workspace",
        metavar="DIR",
        type=Path,
        help="folder with raw, preprocessed and results (default: $SICCS_WORKSPACE, else ./siccs_workspace); raw "
        "datasets are looked for in $nnUNet_raw too",
    )
    common.add_argument("--report", metavar="FILE", type=Path, help="write a JSON record of this run")
    common.add_argument("--quiet", action="store_true", help="print only the result and errors")
    common.add_argument("--verbose", action="store_true", help="print details, and the traceback of an error")
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument(
        "--device",
        default="auto",
        metavar="cpu|cuda|mps|auto",
        help="where to compute (default: auto, the best there is)",
    )


def add_workers(parser: argparse.ArgumentParser, short: str = "-np") -> None:
    """Add the number of workers."""
    parser.add_argument(
        short, "--workers", type=count, metavar="N", help="cases handled at once (default: one a processor core)"
    )


def add_set(parser: argparse.ArgumentParser, what: str) -> None:
    """Add --set."""
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], nargs="+", metavar="NAME=VALUE", help=what
    )


def flat_settings(args: argparse.Namespace) -> list[str]:
    """Return all `--set` texts in order."""
    return [text for group in args.settings for text in group]


def count(text: str) -> int:
    """Return a whole number that is 0 or more."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number


def minutes(text: str) -> float:
    """Return a time such as 90s, 10min, 4h or 1h30min in minutes."""
    found = _TIME.fullmatch(text.replace(" ", ""))
    parts = [float(number or 0) for number in found.groups()] if found else []
    total = sum(number * factor for number, factor in zip(parts, (60, 1, 1 / 60), strict=True)) if parts else 0.0
    if total <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write such as 90s, 10min, 4h or 1h30min")
    return total
