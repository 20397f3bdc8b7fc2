"""A training's log: one JSON line an epoch, and a picture of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from siccs_net.io import files

_PICTURE_EVERY_S = 15.0


class EpochLog:
    """log.jsonl. On resume it is cut back to where the state stood, so that no epoch is there twice."""

    def __init__(self, path: Path, keep_bytes: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lines = self._cut(keep_bytes)

    def _cut(self, keep_bytes: int) -> list[dict[str, Any]]:
        whole = self.path.read_bytes()[:keep_bytes] if self.path.is_file() else b""
        if not self.path.is_file() or len(whole) < self.path.stat().st_size:
            files.write_bytes(self.path, whole)
        return [json.loads(line) for line in whole.splitlines()]

    def append(self, entry: Mapping[str, Any]) -> int:
        """Add one line, fsynced; return the length of the file in bytes."""
        line = json.dumps(entry) + "\n"
        try:
            with open(self.path, "a", encoding="utf-8") as stream:
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise files.disk_problem(error, self.path) from error
        self.lines.append(dict(entry))
        return self.path.stat().st_size


class ProgressPicture:
    """progress.png, drawn at most every quarter of a minute and at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._drawn = time.monotonic()

    def draw(self, lines: list[dict[str, Any]], *, last: bool = False) -> None:
        """Draw it anew if it is time."""
        now = time.monotonic()
        if lines and (last or now - self._drawn > _PICTURE_EVERY_S):
            draw_progress(lines, self.path)
            self._drawn = now


def describe_epoch(fold: str, name: str, entry: Mapping[str, Any]) -> str:
    """Return an epoch's line of the log in words; `name` says which epoch it is, of how many."""
    dice = entry.get("dice", {})
    listed = ", ".join(f"{name} {'none' if value is None else format(value, '.3f')}" for name, value in dice.items())
    validated = f", validation Dice {listed}" if dice else ""
    place = f"fold {fold} {name}"
    waited = f" ({entry['data_wait']:.0%} waiting for data)" if "data_wait" in entry else ""
    return f"{place}: loss {entry['loss']:.4f}{validated}, {entry['seconds']:.1f} s{waited}"


def progress_bar(title: str, total: int, done: int, *, shown: bool) -> tqdm[Any]:
    """Return a progress bar with rate and time left; silent when not shown or not on a terminal."""
    return tqdm(total=total, initial=done, desc=title, leave=False, disable=None if shown else True, dynamic_ncols=True)


def draw_progress(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw losses, validation Dice per class and the learning rate over the epochs as a PNG."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    loss, dice, rate = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2, 1))
    epochs = [line["epoch"] for line in lines]
    loss.plot(epochs, [line["loss"] for line in lines], label="training")
    validated = [line for line in lines if line.get("validation_loss") is not None]
    loss.plot(
        [line["epoch"] for line in validated], [line["validation_loss"] for line in validated], label="validation"
    )
    loss.set_ylabel("loss")
    for name in validated[-1]["dice"] if validated else ():
        points = [(line["epoch"], line["dice"][name]) for line in validated if line["dice"][name] is not None]
        dice.plot(*zip(*points, strict=True) if points else ([], []), label=name)
    dice.set(ylabel="Dice on fixed patches", ylim=(0, 1))
    rate.plot(epochs, [line["learning_rate"] for line in lines], color="tab:grey")
    rate.set(xlabel="epoch", ylabel="learning rate")
    for axes in (loss, dice):
        axes.grid(alpha=0.3)
        if axes.get_lines():
            axes.legend(fontsize="small", loc="best")
    stream = io.BytesIO()
    canvas.print_png(stream)
    files.write_bytes(path, stream.getvalue())
