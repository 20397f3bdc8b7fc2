"""The study's table, figure and page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.learn.candidates import CANDIDATES, DEFAULT, NNUNET
from benchmarks.learn.scoring import ANY, paired_difference

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "explanation" / "learning.md"
PICTURE = REPOSITORY / "docs" / "images" / "learning.png"
FIGURES = REPOSITORY / "benchmarks" / "results" / "learn.json"
HEAD = """\
# What is learnt in equal minutes, beside nnU-Net

This page is made by `python -m benchmarks.learn OUT --docs` from `benchmarks/results/learn.json`. Every side has the
same cases, the same split (every fourth case is held out), the same cores and the same minutes for its training, with a
schedule that is complete then. Ours includes starting its loaders and validating on the way; the peer's begins with its
first update. Whole held-out cases are scored on their own grid. Dice is the mean over the held-out cases that have the
class and then over seeds (a lesion is any class but normal lung); the difference to nnU-Net is taken case by case
between runs of the same seed on the same kind of processor, with its 95 % BCa bootstrap interval over cases. Small
lesions are those up to 150 mm² (2-D) or 2 ml (3-D), found where a tenth of them is in the mask; volume bias is the
total volume over the reference's, less 1; the calibration error is taken where either mask has a lesion. The candidates
were chosen by these same held-out cases, so the default's own figures flatter it a little.

`default` is what `siccs_plan_and_preprocess --budget` and `siccs_train --budget` do when nobody says anything more.

![Training loss over the minutes](../images/learning.png)
"""

Result = dict[str, Any]
Group = tuple[str, float, int]


def collect(root: Path) -> list[Result]:
    """Return the results of all runs that are done."""
    return [json.loads(path.read_text()) for path in sorted(root.glob("runs/*/*/*/*/result.json"))]


def with_committed(found: Sequence[Result]) -> list[Result]:
    """Return the runs over those that were committed before."""
    earlier = json.loads(FIGURES.read_text()) if FIGURES.is_file() else []
    runs = {_key(result): result for result in (*earlier, *found)}
    return [runs[key] for key in sorted(runs)]


def _key(result: Result) -> tuple[Any, ...]:
    return *_group(result), result["candidate"], result["seed"]


def _group(result: Result) -> Group:
    return result["task"], result["minutes"], result["cores"]


def one_line(result: Result) -> str:
    """Return a run in words."""
    dice = ", ".join(f"{name} {_number(value)}" for name, value in result["summary"]["dice"].items())
    return f"{dice}; {result['iterations']} iterations in {result['seconds'] / 60:.1f} min"


def make_table(found: Sequence[Result]) -> str:
    """Return one table in Markdown for each dataset, number of minutes and number of cores."""
    texts = []
    for (task, minutes, cores), results in _grouped(found, _group).items():
        by_candidate = _grouped(results, lambda result: (result["candidate"],))
        names = list(results[0]["summary"]["dice"])
        title = f"## {task}, {minutes:g} minutes on {cores} core{'s' if cores > 1 else ''}"
        head = ["candidate", "seeds", *names, f"{ANY}, less nnU-Net's", "small lesions", "volume bias", "calibration"]
        head += ["iterations", "samples", "s a step", "patch, batch", "mm", "precision"]
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        peers = by_candidate.get((NNUNET,), [])
        order = sorted(by_candidate, key=lambda key: (key != (NNUNET,), -_dice(by_candidate[key])))
        lines += [_row(key[0], by_candidate[key], peers, names) for key in order]
        lines += _by_class(by_candidate.get((DEFAULT,), []), peers, names)
        texts.append("\n".join([title, "", *lines, *_machines(results)]))
    return "\n\n".join(texts)


def _grouped(found: Iterable[Result], key: Any) -> dict[Any, list[Result]]:
    groups: dict[Any, list[Result]] = {}
    for result in found:
        groups.setdefault(key(result), []).append(result)
    return dict(sorted(groups.items()))


def _machines(results: Sequence[Result]) -> list[str]:
    processors = "; ".join(sorted({result["processor"] for result in results}))
    by_code = _grouped(results, lambda result: result["code"])
    runs = {code: ", ".join(f"`{one['candidate']}` {one['seed']}" for one in ran) for code, ran in by_code.items()}
    return ["", f"On {processors}. Code: {'; '.join(f'{code} ({ran})' for code, ran in runs.items())}."]


def _dice(results: Sequence[Result]) -> float:
    return _mean([result["summary"]["dice"][ANY] for result in results]) or 0.0


def _row(name: str, results: list[Result], peers: list[Result], names: Sequence[str]) -> str:
    summaries = [result["summary"] for result in results]
    cells = [f"`{name}`", ", ".join(str(result["seed"]) for result in results)]
    cells += [_number(_mean([one["dice"][label] for one in summaries])) for label in names]
    cells.append(_difference(results, peers) if name != NNUNET else "")
    cells.append(_number(_mean([one["small_lesion_recall"] for one in summaries]), 2))
    cells.append(_number(_mean([one["volume_bias"][ANY] for one in summaries]), 2, sign=True))
    cells.append(_number(_mean([one["calibration_error"] for one in summaries])))
    cells += [f"{_mean([result[key] for result in results]):.0f}" for key in ("iterations", "samples")]
    cells.append(_number(_mean([result["step_s"] for result in results]), 2))
    cells.append("; ".join(sorted({f"{'×'.join(map(str, one['patch'][:-1]))}, {one['patch'][-1]}" for one in results})))
    cells.append("; ".join(sorted({_spacing(one["spacing_mm"]) for one in results})))
    cells.append(", ".join(sorted({result["precision"] for result in results})))
    return f"| {' | '.join(cells)} |"


def _spacing(steps: Sequence[float | None]) -> str:
    return "×".join("own" if step is None else f"{step:.3g}" for step in steps)


def _difference(results: list[Result], peers: list[Result]) -> str:
    pairs = _pairs(results, peers)
    if not pairs:
        return ""
    known = ", ".join(str(own["seed"]) for own, _ in pairs)
    alone = f" (seeds {known})" if len(pairs) < len(results) else ""
    return f"**{_less(pairs, ANY)}**{alone}"


def _by_class(results: list[Result], peers: list[Result], names: Sequence[str]) -> list[str]:
    """Return the default's difference to the peer, class by class."""
    pairs = _pairs(results, peers)
    if not pairs:
        return []
    return ["", f"`{DEFAULT}` less `{NNUNET}`: {'; '.join(f'{name} {_less(pairs, name)}' for name in names)}."]


def _pairs(results: list[Result], peers: list[Result]) -> list[tuple[Result, Result]]:
    """Return the runs of the same seed on the same kind of processor."""
    of_peer = {(peer["seed"], peer["processor"]): peer for peer in peers}
    keyed = [((result["seed"], result["processor"]), result) for result in results]
    return [(result, of_peer[key]) for key, result in keyed if key in of_peer]


def _less(pairs: list[tuple[Result, Result]], name: str) -> str:
    mean, interval = paired_difference([own["cases"] for own, _ in pairs], [peer["cases"] for _, peer in pairs], name)
    return f"{mean:+.3f}" + (f" [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else "")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    return "none" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def write(found: Sequence[Result], root: Path) -> None:
    """Write learn.json and learn.png."""
    (root / "learn.json").write_text(json.dumps(list(found)) + "\n")
    draw(found, root / "learn.png")


def draw(found: Sequence[Result], path: Path) -> None:
    """Draw the training loss of each run over the minutes, one panel for a dataset, minutes and cores."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = _grouped(found, _group)
    figure = Figure(figsize=(10, 3.2 * len(groups)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for axes, ((task, minutes, cores), results) in zip(panels, groups.items(), strict=True):
        names = sorted({result["candidate"] for result in results}, key=lambda name: (name != NNUNET, name))
        for result in results:
            number = names.index(result["candidate"])
            style = {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else "--", "linewidth": 1}
            first = result["seed"] == min(one["seed"] for one in results if one["candidate"] == result["candidate"])
            axes.plot(*zip(*result["curve"], strict=True), label=result["candidate"] if first else None, **style)
        axes.set(title=f"{task}, {minutes:g} min, {cores} core(s)", xlabel="minutes", ylabel="training loss (its own)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    canvas.print_png(path)


def write_docs(found: Sequence[Result]) -> None:
    """Write the page, its picture and the figures that they are made of, with the runs committed before."""
    every = with_committed(found)
    used = [name for name in CANDIDATES if any(result["candidate"] == name for result in every)]
    log = "\n".join(f"- `{name}`: {CANDIDATES[name].why}.{_settings(name)}" for name in used)
    PAGE.write_text(f"{HEAD}\n{make_table(every)}\n\n## Candidates\n\n{log}\n")
    FIGURES.write_text("[\n" + ",\n".join(json.dumps(result, separators=(",", ":")) for result in every) + "\n]\n")
    draw(every, PICTURE)


def _settings(name: str) -> str:
    one = CANDIDATES[name]
    parts = [f"plan `--set {' '.join(one.plan)}`"] if one.plan else []
    parts += [f"training `--set {' '.join(one.training)}`"] if one.training else []
    parts += [f"`-tr {one.trainer}`"] if one.trainer else []
    return f" ({', '.join(parts)})" if parts else ""
