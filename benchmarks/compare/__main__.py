"""Ours and the peer, stage by stage: python -m benchmarks.compare [STAGE…] [--repeats N] [--json FILE].

Peers are nnU-Net 2.8.1, MONAI and scikit-image, installed by `pip install -c constraints.txt -e ".[bench]"`. Each side
runs in processes of its own. Seconds are medians of turns taken alternately; memory is the peak above the start of one
run in a fresh process, with all processes that it starts. Exit code 1 when a stage fails or two answers disagree.

Rows go to benchmarks/results/compare.json, beside those of the stages not named, or, with --json, to FILE alone.
--docs measures nothing: it writes docs/explanation/performance.md from benchmarks/results.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.compare import page, results
from benchmarks.compare.harness import Measured, measure
from benchmarks.compare.machine import describe_machine
from benchmarks.compare.stages import STAGES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"any of {', '.join(STAGES)} (default: all)")
    parser.add_argument("--repeats", type=int, metavar="N", help="turns of each stage (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows of this run alone to FILE")
    parser.add_argument("--docs", action="store_true", help="write docs/explanation/performance.md and stop")
    args = parser.parse_args()
    if args.docs:
        page.PAGE.parent.mkdir(parents=True, exist_ok=True)
        page.PAGE.write_text(page.make_page(results.read()))
        return 0
    if unknown := [name for name in args.stages if name not in STAGES]:
        parser.error(f"no stage {', '.join(unknown)}; there are {', '.join(STAGES)}")
    machine = describe_machine()
    names = args.stages or list(STAGES)
    if args.json is None and (problem := results.cannot_merge(names, machine)):
        parser.error(problem)
    return _measure_all(names, args.repeats, args.json, machine)


def _measure_all(names: list[str], repeats: int | None, separate: Path | None, machine: dict[str, str]) -> int:
    print(
        f"{'stage':<28}{'peer':<30}{'ours s':>9}{'peer s':>9}{'ratio':>8}{'spread':>14}{'ours MiB':>10}{'peer MiB':>10}"
    )
    found: list[Measured] = []
    for name in names:
        try:
            found.append(measure(STAGES[name], repeats))
        except RuntimeError as error:
            print(error, file=sys.stderr, flush=True)
            continue
        _print(found[-1])
        if separate is None:  # after each stage, so that a long run that is stopped leaves what it found
            results.merge(found[-1:], machine, list(STAGES))
    if separate is not None:
        results.write_rows(separate, [one.row.as_dict() for one in found])
    whole = len(found) == len(names) and all(one.agrees for one in found)
    return 0 if whole else 1


def _print(found: Measured) -> None:
    row = found.row
    spread = f"{found.lowest:.1f}–{found.highest:.1f}"
    verdict = "" if found.agrees else "DISAGREES: "
    print(
        f"{row.stage:<28}{row.peer:<30}{row.ours_s:9.3f}{row.peer_s:9.3f}{row.ratio:8.1f}{spread:>14}"
        f"{row.ours_mib:10.0f}{row.peer_mib:10.0f}  {verdict}{row.agreement}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
