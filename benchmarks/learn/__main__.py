"""What is learnt in equal minutes: python -m benchmarks.learn OUT [--task covid2d] [--minutes 10 30] [--seeds 0 1].

Trains every candidate (`candidates.py`) for the same wall-clock on the same cases and cores, one after another, and
scores the same validation cases on their own grids. Planning and the final validation on whole cases are outside of the
time on both sides. Ours includes building the network, starting the loaders and validating patches on the way; the
peer's begins with its first update. The peer is nnU-Net 2.8.1, from the extra `bench`.

OUT keeps everything: a run that is there is not repeated, so a study can be stopped and gone on with. Figures go to
OUT/learn.json and the curves to OUT/learn.png; with --docs the runs are added to those in benchmarks/results/learn.json
(one with the same task, minutes, cores, seed and candidate is replaced), of which docs/explanation/learning.md is made.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.compare.machine import describe_machine
from benchmarks.learn import table
from benchmarks.learn.candidates import CANDIDATES, DEFAULT, NNUNET
from benchmarks.learn.data import TASKS, Task, make_raw, validation_cases
from benchmarks.learn.run import Place, train
from benchmarks.learn.scoring import score_cases, summarise

RESULT = "result.json"


def main() -> int:
    args = _arguments()
    place = Place(args.output.resolve(), tuple(args.cores))
    failed = False
    for name in [] if args.table_only else args.task:
        task = TASKS[name]
        raw = make_raw(task, place.raw)
        for minutes in args.minutes:
            for seed in args.seeds:
                for candidate in args.candidates:
                    failed |= not _run(place, task, raw, candidate, minutes, seed)
    found = table.collect(place.root)
    print(table.make_table(found))
    table.write(found, place.root)
    if args.docs:
        table.write_docs(found)
    return int(failed)


def _run(place: Place, task: Task, raw: Path, candidate: str, minutes: float, seed: int) -> bool:
    """Train and score one candidate unless that is done; return whether it is there now."""
    folder = place.run(task, minutes, seed, candidate)
    if (folder / RESULT).is_file():
        return True
    print(f"{task.dataset} {minutes:g} min seed {seed}: {candidate}", flush=True)
    try:
        trained = train(place, task, CANDIDATES[candidate], minutes, seed)
    except RuntimeError as error:
        print(error, file=sys.stderr, flush=True)
        return False
    scores = score_cases(trained.masks, raw, task, validation_cases(raw))
    summary, machine = summarise(scores), describe_machine()
    result = {
        "task": task.dataset,
        "candidate": candidate,
        "minutes": minutes,
        "seed": seed,
        "code": _code(),
        "cores": len(place.cores),
        "processor": f"{machine['processor']} ({machine['instructions']})",
        "settings": [list(CANDIDATES[candidate].plan), list(CANDIDATES[candidate].training)],
        **trained.figures,
        "summary": summary,
        "cases": scores,
    }
    (folder / f"half_{RESULT}").write_text(json.dumps(result))
    (folder / f"half_{RESULT}").rename(folder / RESULT)
    print(f"  {table.one_line(result)}", flush=True)
    return True


def _code() -> str:
    """Return the commit of the code that was run."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUT")
    parser.add_argument("--task", nargs="+", default=["covid2d"], choices=list(TASKS))
    parser.add_argument("--minutes", nargs="+", type=float, default=[10.0, 30.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--candidates", nargs="+", default=[NNUNET, DEFAULT], choices=list(CANDIDATES))
    cores = sorted(os.sched_getaffinity(0))[:2]
    parser.add_argument("--cores", nargs="+", type=int, default=cores, help="processors that every run has")
    parser.add_argument("--table-only", action="store_true", help="train nothing; show the runs that are there")
    parser.add_argument("--docs", action="store_true", help="write docs/explanation/learning.md and its figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
