"""Ours and the peer, stage by stage: python -m benchmarks.compare [STAGE…] [--repeats N] [--json FILE].

Peers are nnU-Net 2.8.1, MONAI and scikit-image, installed by `pip install -c constraints.txt -e ".[bench]"`. Each stage
runs in a process of its own, ours and the peer in turns. Seconds are medians, memory is the peak above the start.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.compare import commands, networks, training_input, volumes
from benchmarks.compare.harness import Measured, Stage, measure

ROOMS = (volumes, networks, training_input, commands)
STAGES: dict[str, Stage] = {stage.name: stage for room in ROOMS for stage in room.STAGES}
RESULTS = Path(__file__).resolve().parents[1] / "results" / "compare.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"any of {', '.join(STAGES)} (default: all)")
    parser.add_argument("--repeats", type=int, metavar="N", help="turns of each stage (default: 3 to 5)")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="where to write the rows")
    args = parser.parse_args()
    if unknown := [name for name in args.stages if name not in STAGES]:
        parser.error(f"no stage {', '.join(unknown)}; there are {', '.join(STAGES)}")
    print(
        f"{'stage':<28}{'peer':<30}{'ours s':>9}{'peer s':>9}{'ratio':>8}{'spread':>14}{'ours MiB':>10}{'peer MiB':>10}"
    )
    rows, failed = [], 0
    for name in args.stages or STAGES:
        try:
            found = measure(STAGES[name], args.repeats)
        except RuntimeError as error:
            print(error, file=sys.stderr, flush=True)
            failed += 1
            continue
        _print(found)
        rows.append(found.row.as_dict())
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if failed else 0


def _print(found: Measured) -> None:
    row = found.row
    spread = f"{found.lowest:.1f}–{found.highest:.1f}"
    print(
        f"{row.stage:<28}{row.peer:<30}{row.ours_s:9.3f}{row.peer_s:9.3f}{row.ratio:8.1f}{spread:>14}"
        f"{row.ours_mib:10.0f}{row.peer_mib:10.0f}  {row.agreement}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
