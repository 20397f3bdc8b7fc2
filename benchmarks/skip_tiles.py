"""What skipping the tiles outside the lungs changes and saves: python -m benchmarks.skip_tiles [DEMO_FOLDER [SCAN]].

Predicts held-out phantoms with two folds of the demo's model (made by `siccs_demo -o DEMO_FOLDER`) with and without
skipping, as planned and with small tiles on uncropped scans (a demo tile is half a body wide, and all of them touch the
lungs of a cropped one), and prints tiles, seconds of one processor, and the Dice between the two masks. For a SCAN it
counts tiles of 96 x 96 x 96 voxels of 1 mm; no network.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.held_out import UNIONS, dice, held_out_phantoms
from siccs_net.inference.load_model import load_model
from siccs_net.inference.predictor import Answer, Model
from siccs_net.inference.skipping import box_window
from siccs_net.inference.sliding_window import count_tiles, plan_tiles
from siccs_net.io.image import Image, read_image
from siccs_net.io.store import PreparedCase
from siccs_net.preprocessing.crop import body_box, crop
from siccs_net.preprocessing.lung_box import lung_box
from siccs_net.preprocessing.resample import resampled_shape

PHANTOMS = 6
FULL_PATCH, FULL_SPACING_MM, FULL_OVERLAP = (96, 96, 96), (1.0, 1.0, 1.0), 0.5
SMALL_PATCH = (16, 16, 16)


def main(demo: Path, scan: Path | None) -> None:
    """Print a table for each size of tiles, and the count in a scan."""
    if scan is not None:
        _count(scan)
    torch.set_num_threads(1)
    model = load_model(demo / "model", folds=[0, 1], device="cpu")
    if model.configuration.inference.skip_outside is None:
        raise SystemExit("the demo's plan skips nothing")
    phantoms = held_out_phantoms(PHANTOMS)
    planned = model.configuration
    steps = tuple(step for step in planned.steps if step.step != "crop_body")
    small = planned.model_copy(update={"steps": steps, "patch_size": SMALL_PATCH})
    for name, configuration in {"uncropped, tiles of 16 x 16 x 16": small, "as planned": planned}.items():
        print(f"\n{name}")
        print(f"{'phantom':<12} {'tiles':>11} {'s':>7} {'s all':>7} {'ratio':>6} {'lung':>9} {'EF+GGO':>9}  skipped")
        changed = replace(model, configuration=configuration)
        for phantom, image in phantoms:
            _compare(changed, phantom.case, image)


def _compare(model: Model, case: str, image: Image) -> None:
    whole = model.with_settings(skip=False)
    prepared = model.prepare(image)
    some, own = _timed(model, image, prepared)
    every, other = _timed(whole, image, prepared)
    found = {name: dice(some.segmentation.array, every.segmentation.array, values) for name, values in UNIONS.items()}
    print(
        f"{case:<12} {some.tiles.run:>5}/{some.tiles.total:<5} {own:7.2f} {other:7.2f} {other / own:6.2f} "
        f"{found['lung']:9.6f} {found['EF+GGO']:9.6f}  {some.tiles.skipped}",
        flush=True,
    )


def _timed(model: Model, image: Image, prepared: PreparedCase) -> tuple[Answer, float]:
    started = time.process_time()
    answer = model.segment(image, prepared)
    return answer, time.process_time() - started


def _count(scan: Path) -> None:
    """Print how many tiles of a full-size plan touch the lungs' box of a scan."""
    image = read_image([scan])
    body = crop(image.array[0], body_box(image.array[0], image.grid.spacing_mm))
    box = lung_box(body, image.grid.spacing_mm)
    shape = resampled_shape(body.shape, image.grid.spacing_mm, FULL_SPACING_MM)
    axes = plan_tiles(shape, FULL_PATCH, FULL_OVERLAP, 0.125)
    if box is None:
        print(f"{scan.name}: no lungs found")
        return
    scale = [size / old for size, old in zip(shape, body.shape, strict=True)]
    z, y, x = ((int(start * by), math.ceil(end * by)) for (start, end), by in zip(box, scale, strict=True))
    tiles = box_window(axes, (z, y, x)).tiles
    own = count_tiles(plan_tiles([end - start for start, end in (z, y, x)], FULL_PATCH, FULL_OVERLAP, 0.125))
    print(f"{scan.name}: {tiles.run} of {tiles.total} tiles at 1 mm touch the lungs {(z, y, x)} in the body {shape};")
    print(f"a grid of the box's own, which is another answer, would have {own}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "siccs_demo"), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
