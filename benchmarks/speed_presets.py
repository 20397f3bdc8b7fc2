"""Dice against seconds of the speed presets: python -m benchmarks.speed_presets [DEMO_FOLDER [--write]].

Predicts held-out phantoms with the demo's model (made by `siccs_demo -o DEMO_FOLDER`), all folds of which are there,
with each preset, on one thread; prints means over phantoms, or writes them into docs/explanation/speed-presets.md.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import mean

import torch

from benchmarks.held_out import UNIONS, dice, held_out_phantoms
from siccs_net.inference.load_model import load_model
from siccs_net.inference.predictor import Model
from siccs_net.inference.speed import SPEEDS
from siccs_net.io import files

PHANTOMS = 4
PAGE = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "speed-presets.md"
BEGIN, END = "<!-- table: benchmarks.speed_presets -->\n", "<!-- table: end -->\n"


def main(demo: Path, *, write: bool) -> None:
    """Measure every preset and print the table."""
    torch.set_num_threads(1)
    model = load_model(demo / "model", device="cpu")
    rows = {speed: _measure(model.with_settings(speed=speed)) for speed in SPEEDS}
    table = _table(rows)
    print(table)
    if write:
        before, rest = PAGE.read_text().split(BEGIN)
        files.write_bytes(PAGE, (before + BEGIN + table + END + rest.split(END)[1]).encode())


def _measure(model: Model) -> dict[str, str]:
    seconds, tiles = [], []
    found: dict[str, list[float]] = {name: [] for name in UNIONS}
    for phantom, image in held_out_phantoms(PHANTOMS):
        prepared = model.prepare(image)
        started = time.process_time()
        answer = model.segment(image, prepared)
        seconds.append(time.process_time() - started)
        tiles.append(answer.tiles.run)
        for name, values in UNIONS.items():
            found[name].append(dice(answer.segmentation.array[0], phantom.label, values))
        print(f"{model.speed} {phantom.case}: {seconds[-1]:.1f} s, {answer.tiles}", file=sys.stderr, flush=True)
    inference = model.configuration.inference
    return {
        "preset": f"`{model.speed}`",
        "folds": str(len(model.folds)),
        "overlap": f"{inference.overlap:.2f}",
        "mirrors": ", ".join(map(str, inference.mirror_axes)) or "none",
        "tiles": f"{mean(tiles):.0f}",
        "seconds": f"{mean(seconds):.1f}",
        **{f"Dice {name}": f"{mean(values):.4f}" for name, values in found.items()},
    }


def _table(rows: dict[str, dict[str, str]]) -> str:
    names = list(next(iter(rows.values())))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(row.values()) + " |" for row in rows.values()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--write"]
    main(Path(arguments[0] if arguments else "siccs_demo"), write="--write" in sys.argv)
