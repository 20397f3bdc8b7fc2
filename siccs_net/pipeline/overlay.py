"""Pictures for a quick look: of each case the slice with the most foreground, with its mask and its reference."""

from __future__ import annotations

import colorsys
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError, MissingPathError, SiccsError, UsageError
from siccs_net.evaluation.figures import LUNG_WINDOW_HU, legend_patches, overlay
from siccs_net.evaluation.reporting.palettes import Colour, label_colours
from siccs_net.io import files
from siccs_net.io.dataset import read_description
from siccs_net.io.formats import endings, is_readable, stem
from siccs_net.io.image import check_same_grid, read_image, read_label
from siccs_net.parallel import run_all
from siccs_net.records.dataset import BACKGROUND, LabelScheme

logger = logging.getLogger(__name__)
_GOLDEN = 0.6180339887
_HIGHEST_OF_NO_AIR_HU = -200.0


@dataclass(frozen=True)
class View:
    """The files of one picture."""

    case: str
    image: Path
    mask: Path
    reference: Path | None


def find_views(images: Path, masks: Path, references: Path | None, *, channel: int = 0) -> list[View]:
    """Match masks with images (CASE_0000, or CASE with one channel) and references by name, in the order of names.

    Raises MissingPathError for a folder, an image or a reference that does not exist, UsageError without a mask.
    """
    found = _by_name(masks)
    if not found:
        raise UsageError("the folder holds no mask", path=masks, expected=" or ".join(endings()))
    scans = _by_name(images)
    wanted = _by_name(references) if references is not None else {}
    views = []
    for case, mask in found.items():
        image = scans.get(f"{case}_{channel:04d}") or (scans.get(case) if channel == 0 else None)
        if image is None:
            raise MissingPathError(f"no image of {case!r} with channel {channel}", path=images)
        if references is not None and case not in wanted:
            raise MissingPathError(f"no reference of {case!r}", path=references)
        views.append(View(case, image, mask, wanted.get(case)))
    return views


def _by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise MissingPathError("the folder does not exist", path=folder)
    paths = sorted(path for path in folder.iterdir() if is_readable(path) and not path.name.startswith("."))
    return {stem(path): path for path in paths}


def labels_for(masks: Path, given: Path | None, references: Path | None) -> LabelScheme | None:
    """Return the labels of the dataset.json that is given or lies by the masks or references; None without one."""
    folders = [folder for folder in (masks, references) if folder is not None]
    places = [given] if given is not None else [f / "dataset.json" for m in folders for f in (m, m.parent)]
    for path in places:
        if path == given or path.is_file():
            return read_description(path).label_scheme
    return None


def draw_views(
    views: Sequence[View],
    output: Path,
    labels: LabelScheme | None,
    *,
    window: tuple[float, float] | None = None,
    workers: int | None = None,
) -> list[tuple[str, SiccsError | None]]:
    """Write `output`/CASE.png for every view; return the cases with the error of each that could not be drawn."""
    jobs = run_all(lambda view: _draw(view, output, labels, window), views, workers=workers)
    return sorted(((view.case, error) for view, error in jobs), key=lambda item: item[0])


def _draw(
    view: View, output: Path, labels: LabelScheme | None, window: tuple[float, float] | None
) -> SiccsError | None:
    try:
        image, mask = read_image([view.image]), read_label(view.mask)
        reference = read_label(view.reference) if view.reference is not None else None
        for label, path in ((mask, view.mask), (reference, view.reference)):
            if label is not None:
                check_same_grid(label.orientation, image.orientation, path=path, other="its image")
    except DataError as error:
        return error
    shown = [mask.array[0]] if reference is None else [mask.array[0], reference.array[0]]
    place = fullest_slice(shown)
    scheme = labels or _plain_labels(shown)
    picture = _picture(
        image.array[0, place],
        [label[place] for label in shown],
        scheme,
        window or _window(image.array[0]),
        title=f"{view.case}, slice {place + 1} of {len(mask.array[0])}",
        aspect=image.grid.spacing_mm[1] / image.grid.spacing_mm[2],
    )
    files.write_bytes(output / f"{view.case}.png", picture)
    return None


def fullest_slice(labels: Sequence[NDArray[Any]]) -> int:
    """Return the axial slice of maps [z, y, x] with the most labelled voxels; the middle one when all are empty."""
    counts = np.sum([np.count_nonzero(label, axis=(1, 2)) for label in labels], axis=0)
    return int(counts.argmax()) if counts.any() else len(counts) // 2


def _plain_labels(labels: Sequence[NDArray[Any]]) -> LabelScheme:
    values = sorted({int(value) for label in labels for value in np.unique(label)} - {0})
    return LabelScheme(plain={BACKGROUND: 0, **{f"label {value}": value for value in values}})


def colours_of(labels: LabelScheme) -> dict[int, Colour]:
    """Return a colour of its own for every foreground value, however many: the report's, else hues spread evenly."""
    colours = label_colours(labels)
    if len(set(colours.values())) == len(colours):
        return colours
    return {
        value: colorsys.hsv_to_rgb((number * _GOLDEN) % 1, 0.55 + 0.45 * (number % 2), 1.0 - 0.25 * (number % 3))
        for number, value in enumerate(sorted(colours))
    }


def _window(image: NDArray[Any]) -> tuple[float, float]:
    """Return the lung window for a scan with air in it, else the middle 99 % of the values."""
    if float(image.min()) <= _HIGHEST_OF_NO_AIR_HU:
        return LUNG_WINDOW_HU
    low, high = np.percentile(image, (0.5, 99.5))
    logger.info("no value below %g: shown from %g to %g", _HIGHEST_OF_NO_AIR_HU, low, high)
    return float(low), float(max(high, low + 1e-6))


def _picture(
    image: NDArray[Any],
    labels: Sequence[NDArray[Any]],
    scheme: LabelScheme,
    window: tuple[float, float],
    *,
    title: str,
    aspect: float,
) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours: Mapping[int, Colour] = colours_of(scheme)
    low, high = LUNG_WINDOW_HU
    # `overlay` shows the lung window: other values are brought into it.
    shown = low + (image.astype(np.float32) - window[0]) / (window[1] - window[0]) * (high - low)
    panels = [None, *labels]
    figure = Figure(figsize=(4.2 * len(panels), 4.8), layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    names = ("scan", "mask", "reference")
    for axes, name, label in zip(figure.subplots(1, len(panels)), names, panels, strict=False):
        axes.imshow(overlay(shown, label, colours), aspect=aspect, interpolation="nearest")
        axes.set_title(name)
        axes.axis("off")
    figure.suptitle(title)
    handles = legend_patches(scheme, colours)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(max(len(handles), 1), 6), frameon=False)
    stream = io.BytesIO()
    canvas.print_png(stream)
    return stream.getvalue()
