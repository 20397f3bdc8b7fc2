"""Pictures of a segmentation: the scan, the prediction over it, the reference over it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.io import files
from siccs_net.records.dataset import LabelScheme

LUNG_WINDOW_HU = (-1350.0, 150.0)
PAPER_COLOURS = {1: (0.55, 0.35, 0.75), 2: (0.95, 0.35, 0.60), 3: (1.00, 0.62, 0.15)}
"""Normal lung purple, established fibrosis pink, ground-glass orange, as in the paper's Fig. 1."""
_SPARE_COLOURS = ((0.20, 0.60, 0.90), (0.30, 0.75, 0.40), (0.90, 0.85, 0.20), (0.60, 0.60, 0.60))


def label_colours(labels: LabelScheme) -> dict[int, tuple[float, float, float]]:
    """Return a colour (red, green, blue in 0..1) for every foreground label value."""
    values = sorted(labels.foreground.values())
    return {value: PAPER_COLOURS.get(value, _SPARE_COLOURS[value % len(_SPARE_COLOURS)]) for value in values}


def overlay(
    slice_hu: NDArray[Any],
    slice_labels: NDArray[Any] | None,
    colours: Mapping[int, tuple[float, float, float]],
    *,
    opacity: float = 0.45,
) -> NDArray[np.float32]:
    """Return a slice [rows, columns] in the lung window with labels over it, as [rows, columns, rgb] in 0..1."""
    low, high = LUNG_WINDOW_HU
    grey = np.clip((slice_hu.astype(np.float32) - low) / (high - low), 0, 1)
    picture = np.repeat(grey[..., None], 3, axis=-1)
    if slice_labels is not None:
        for value, colour in colours.items():
            picture[slice_labels == value] = (1 - opacity) * picture[slice_labels == value] + opacity * np.array(colour)
    return picture.astype(np.float32)


def draw_overlay(
    image_hu: NDArray[Any],
    prediction: NDArray[Any],
    reference: NDArray[Any],
    spacing_mm: tuple[float, float, float],
    labels: LabelScheme,
    path: Path,
) -> None:
    """Draw one axial and one coronal slice with the most lesion: scan, prediction, reference; write a PNG.

    All arrays are canonical [z, y, x].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    lesion = np.isin(reference, list(labels.groups.get("EF+GGO", labels.foreground.values())))
    z, y = int(lesion.sum((1, 2)).argmax()), int(lesion.sum((0, 2)).argmax())
    colours = label_colours(labels)
    figure = Figure(figsize=(12, 8.2), layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    rows = figure.subplots(2, 3)
    names = ("scan", "prediction", "reference")
    sz, sy, sx = spacing_mm
    for axes, title, mask in zip(rows[0], names, (None, prediction[z], reference[z]), strict=True):
        axes.imshow(overlay(image_hu[z], mask, colours), aspect=sy / sx, interpolation="nearest")
        axes.set_title(title)
    for axes, mask in zip(rows[1], (None, prediction[:, y], reference[:, y]), strict=True):
        axes.imshow(overlay(image_hu[:, y], mask, colours), aspect=sz / sx, origin="lower", interpolation="nearest")
    for axes in rows.ravel():
        axes.axis("off")
    names_of = {value: name for name, value in labels.foreground.items()}
    handles = [Patch(color=colour, label=names_of[value]) for value, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    stream = io.BytesIO()
    canvas.print_png(stream)
    files.write_bytes(path, stream.getvalue())
