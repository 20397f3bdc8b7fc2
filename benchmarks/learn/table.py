"""The study's table, figure and page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.learn.candidates import CANDIDATES, NNUNET
from benchmarks.learn.scoring import ANY, paired_difference

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "explanation" / "learning.md"
FIGURES = REPOSITORY / "benchmarks" / "results" / "learn.json"
HEAD = """\
# What is learnt in equal minutes, beside nnU-Net

This page is made by `python -m benchmarks.learn OUT --docs`. Every side has the same cases, the same split (every
fourth case is held out), the same cores and the same minutes for its training, with a schedule that is complete then.
Ours includes starting its loaders and validating on the way; the peer's begins with its first update. Whole held-out
cases are scored on their own grid. Dice is the mean over the held-out cases that have the class and then over seeds;
the difference to nnU-Net is taken case by case, with its 95 % BCa bootstrap interval over cases. Small lesions are
those up to 150 mm² (2-D) or 2 ml (3-D), found where a tenth of them is in the mask; volume bias is the total volume
over the reference's, less 1; the calibration error is taken where either mask has a lesion.
"""


def collect(root: Path) -> list[dict[str, Any]]:
    """Return the results of all runs that are done."""
    return [json.loads(path.read_text()) for path in sorted(root.glob("runs/*/*/*/*/result.json"))]


def one_line(result: dict[str, Any]) -> str:
    """Return a run in words."""
    dice = ", ".join(f"{name} {_number(value)}" for name, value in result["summary"]["dice"].items())
    return f"{dice}; {result['iterations']} iterations in {result['seconds'] / 60:.1f} min"


def make_table(found: Sequence[dict[str, Any]]) -> str:
    """Return one table in Markdown for each dataset and number of minutes."""
    texts = []
    groups: dict[tuple[str, float], dict[str, list[dict[str, Any]]]] = {}
    for result in found:
        own = groups.setdefault((result["task"], result["minutes"]), {})
        own.setdefault(result["candidate"], []).append(result)
    for (task, minutes), by_candidate in sorted(groups.items()):
        names = list(next(iter(by_candidate.values()))[0]["summary"]["dice"])
        cores = {result["cores"] for results in by_candidate.values() for result in results}
        title = f"## {task}, {minutes:g} minutes on {'/'.join(map(str, sorted(cores)))} cores"
        head = ["candidate", "seeds", *names, f"{ANY}, less nnU-Net's", "small lesions", "volume bias", "calibration"]
        head += ["iterations", "samples", "precision"]
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        order = sorted(by_candidate, key=lambda name: (name != NNUNET, name))
        lines += [_row(name, by_candidate[name], by_candidate.get(NNUNET, []), names) for name in order]
        texts.append("\n".join([title, "", *lines]))
    return "\n\n".join(texts)


def _row(name: str, results: list[dict[str, Any]], peers: list[dict[str, Any]], names: Sequence[str]) -> str:
    summaries = [result["summary"] for result in results]
    cells = [f"`{name}`", ", ".join(str(result["seed"]) for result in results)]
    cells += [_number(_mean([one["dice"][label] for one in summaries])) for label in names]
    cells.append(_difference(results, peers) if name != NNUNET else "")
    cells.append(_number(_mean([one["small_lesion_recall"] for one in summaries]), 2))
    cells.append(_number(_mean([one["volume_bias"][ANY] for one in summaries]), 2, sign=True))
    cells.append(_number(_mean([one["calibration_error"] for one in summaries])))
    cells += [f"{_mean([result[key] for result in results]):.0f}" for key in ("iterations", "samples")]
    cells.append(", ".join(sorted({result["precision"] for result in results})))
    return f"| {' | '.join(cells)} |"


def _difference(results: list[dict[str, Any]], peers: list[dict[str, Any]]) -> str:
    by_seed = {peer["seed"]: peer for peer in peers}
    pairs = [(result["cases"], by_seed[result["seed"]]["cases"]) for result in results if result["seed"] in by_seed]
    if not pairs:
        return ""
    mean, interval = paired_difference([own for own, _ in pairs], [peer for _, peer in pairs], ANY)
    spread = f" [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else ""
    return f"**{mean:+.3f}**{spread}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    return "none" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def write(found: Sequence[dict[str, Any]], root: Path) -> None:
    """Write learn.json and learn.png."""
    (root / "learn.json").write_text(json.dumps(list(found)) + "\n")
    _draw(found, root / "learn.png")


def _draw(found: Sequence[dict[str, Any]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    for result in found:
        label = f"{result['task']} {result['minutes']:g} min {result['candidate']} {result['seed']}"
        axes.plot(*zip(*result["curve"], strict=True), label=label, linewidth=1)
    axes.set(xlabel="minutes", ylabel="training loss (each candidate's own)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")
    canvas.print_png(path)


def write_docs(found: Sequence[dict[str, Any]]) -> None:
    """Write the page and the figures that it is made of."""
    used = [name for name in CANDIDATES if any(result["candidate"] == name for result in found)]
    log = "\n".join(f"- `{name}`: {CANDIDATES[name].why}." for name in used)
    settings = "\n".join(f"- `{name}`: {_settings(name)}" for name in used if _settings(name))
    PAGE.write_text(f"{HEAD}\n{make_table(found)}\n\n## Candidates\n\n{log}\n\nSettings:\n\n{settings}\n")
    FIGURES.write_text(json.dumps(list(found), indent=None) + "\n")


def _settings(name: str) -> str:
    one = CANDIDATES[name]
    parts = [f"plan `--set {' '.join(one.plan)}`"] if one.plan else []
    parts += [f"training `--set {' '.join(one.training)}`"] if one.training else []
    parts += [f"`-tr {one.trainer}`"] if one.trainer else []
    return ", ".join(parts)
