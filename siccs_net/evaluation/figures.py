"""Pictures of a segmentation: the scan, the prediction over it, the reference over it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.evaluation.reporting.palettes import Colour, label_colours
from siccs_net.io import files
from siccs_net.records.dataset import LabelScheme

if TYPE_CHECKING:
    from matplotlib.patches import Patch

LUNG_WINDOW_HU = (-1350.0, 150.0)


def overlay(
    slice_hu: NDArray[Any],
    slice_labels: NDArray[Any] | None,
    colours: Mapping[int, Colour],
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
    handles = legend_patches(labels, colours)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    stream = io.BytesIO()
    canvas.print_png(stream)
    files.write_bytes(path, stream.getvalue())


def legend_patches(labels: LabelScheme, colours: Mapping[int, Colour]) -> list[Patch]:
    """Return a patch of colour with its label's name for every foreground label."""
    from matplotlib.patches import Patch

    names = {value: name for name, value in labels.foreground.items()}
    return [Patch(color=colour, label=names[value].replace("_", " ")) for value, colour in colours.items()]
