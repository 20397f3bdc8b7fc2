"""docs/explanation/performance.md, made from benchmarks/results alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.compare.results import Results
from benchmarks.compare.targets import TARGETS, Target, memory_ratio, verdict

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "performance.md"
HEAD = """# How fast it is, beside nnU-Net and MONAI

This page is made by `python -m benchmarks.compare --docs` from `benchmarks/results/compare.json`, which

    pip install -c constraints.txt -e ".[bench]"
    python -m benchmarks.compare

writes (about an hour on two cores; name stages to measure some of them; real CT is read from `../shared/data`).
"""
METHOD = """
## How it is measured

- Each side, ours and the peer's, prepares and runs in processes of its own. Seconds are medians of turns taken
  alternately in one run after one to warm up, one side idle while the other works; the spread is that of the ratio of
  turns that followed one another.
- Memory is the highest resident memory above that at the start of one run in a fresh process, inputs loaded and
  modules imported before, outputs included, together with all processes that it starts.
- Our side is set up as our commands set themselves up: the allocator keeps freed memory, threads sleep after a
  fraction of a millisecond of waiting. The peer has the default allocator. "Plain PyTorch" is the same network with the
  same weights, written with torch's own modules, in contiguous memory.
- `preprocess`: the same steps in both, crop to nonzero, resample, store, so that both grids are the same; our default
  plan also crops to the body. nnU-Net clips before it resamples and we when a patch is read, so the bounds are the
  scan's own extremes. We store HU rounded to whole numbers, nnU-Net normalised float32.
- `predict`: nnU-Net's predictor without its worker processes, which a single scan would only pay for. The network has
  not been trained: its last layer is fitted to classes drawn by density. nnU-Net adds up tiles in half precision,
  which is where most of the voxels that differ come from.
- `surface`: MONAI computes distances in float64 and rounds them, the rank of the 95th percentile and its results to
  float32. The agreement is with MONAI's own edges and distances before that.
"""


def make_page(results: Results) -> str:
    """Return the page."""
    machine = results.machine
    text = [HEAD]
    if machine:
        text.append(f"\nMeasured on {_machine(machine)}.\n")
    text.append("\n## Figures\n\n")
    text.append("| stage | peer | ours s | peer s | ratio (spread) | ours MiB | peer MiB | agreement |\n")
    text.append("|---|---|---|---|---|---|---|---|\n")
    text += [_figures(TARGETS[name], results.rows[name], results.details[name]) for name in _measured(results)]
    text.append("\n## Targets\n\n| stage | time, at least | memory | agreement asked for | |\n|---|---|---|---|---|\n")
    text += [_target(name, target, results) for name, target in TARGETS.items()]
    text += _notes(results)
    text.append(METHOD)
    return "".join(text)


def _measured(results: Results) -> list[str]:
    return [name for name in TARGETS if name in results.rows]


def _notes(results: Results) -> list[str]:
    """Return what limits the stages that fall short, a paragraph each."""
    return [f"\n`{name}`: {TARGETS[name].note}\n" for name in _measured(results) if _short(name, results)]


def _short(name: str, results: Results) -> bool:
    target = TARGETS[name]
    return bool(target.note) and verdict(target, results.rows[name], agrees=results.details[name]["agrees"]).startswith(
        ("**short**", "met (")
    )


def _machine(machine: dict[str, str]) -> str:
    hardware = ("processor", "instructions", "cores", "memory")
    processor = f"{machine['processor']} ({machine['instructions']}), {machine['cores']} cores, {machine['memory']}"
    return processor + "; " + ", ".join(f"{name} {value}" for name, value in machine.items() if name not in hardware)


def _figures(target: Target, row: dict[str, Any], details: dict[str, Any]) -> str:
    spread = f"{details['lowest']:.1f}–{details['highest']:.1f}"
    cells = (
        f"{target.what} (`{row['stage']}`)",
        row["peer"],
        f"{row['ours_s']:.3g}",
        f"{row['peer_s']:.3g}",
        f"**{row['ratio']:.1f}** ({spread})",
        f"{row['ours_mib']:.0f}",
        f"{row['peer_mib']:.0f}",
        row["agreement"],
    )
    return f"| {' | '.join(cells)} |\n"


def _target(name: str, target: Target, results: Results) -> str:
    aim = "" if target.aim is None else f", aim {target.aim:g}×"
    time = "" if target.times is None else f"{target.times:g}×{aim}"
    memory = "" if target.memory is None else f"{target.memory:g}× less"
    if target.mib is not None:
        memory = f"≤ {target.mib:.0f} MiB"
    found = "not measured"
    if name in results.rows:
        found = verdict(target, results.rows[name], agrees=results.details[name]["agrees"])
        if target.memory is not None:
            memory += f" ({memory_ratio(results.rows[name]):.1f}×)"
    return f"| `{name}` | {time} | {memory} | {target.agreement} | {found} |\n"
