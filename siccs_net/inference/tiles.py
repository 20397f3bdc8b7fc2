"""The tiles of one prepared case: where they lie, how many run at once, and their logits as slabs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from siccs_net.errors import EnvironmentProblem, ModelError
from siccs_net.inference.ensemble import Ensemble
from siccs_net.inference.skipping import Window, with_background
from siccs_net.inference.sliding_window import Axis, Slab, plan_tiles, sliding_window
from siccs_net.io.store import PreparedCase
from siccs_net.planners.memory import inference_memory
from siccs_net.preprocessing.crop import crop
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.plan import Configuration

_VOXELS_TOGETHER = 2_000_000
"""As many voxels keep a GPU busy; more only take memory."""
_SHARE_OF_FREE = 0.5
_PASSES_BYTES = 2**29
"""What the activations of all passes on a CPU may take together."""


def tile_grid(prepared: PreparedCase, configuration: Configuration) -> tuple[Axis, Axis, Axis]:
    """Return the grid of tiles of a prepared case."""
    settings = configuration.inference
    return plan_tiles(
        prepared.image.shape[1:],
        configuration.patch_size,
        settings.overlap,
        settings.gaussian_sigma,
        on_voxel=settings.gaussian_peak == "voxel",
    )


def run_tiles(
    prepared: PreparedCase,
    window: Window,
    ensemble: Ensemble,
    configuration: Configuration,
    labels: LabelScheme,
    *,
    show_progress: bool,
) -> Iterator[Slab]:
    """Yield mean logits of a whole prepared case from the tiles of a window, slab by slab (start, [output, d, y, x]).

    Outside the window's box they are the background's. Raises EnvironmentProblem when a GPU has too little memory.
    """
    shown = crop(_shown(prepared, configuration), window.hull)
    with tqdm(total=window.tiles.run, desc="tiles", leave=False, disable=None if show_progress else True) as bar:
        slabs = sliding_window(
            shown,
            window.axes,
            ensemble,
            labels.outputs,
            flat=configuration.dimension == 2,
            device=ensemble.device,
            tile_batch=tiles_together(configuration, ensemble.device),
            on_tiles=_advance(bar),
        )
        try:
            yield from with_background(slabs, window, labels.outputs, regions=bool(labels.regions))
        except torch.cuda.OutOfMemoryError as error:
            raise EnvironmentProblem(
                "the GPU has too little memory for this prediction", hint="Try --device cpu or fewer folds"
            ) from error


def tiles_together(configuration: Configuration, device: torch.device) -> int:
    """Return how many tiles to run at once: on a CPU one, on a GPU as many as are of use and fit half its free memory.

    On a CPU one tile keeps every core busy and its activations nearest to the caches.
    """
    if device.type != "cuda":
        return 1
    useful = max(1, _VOXELS_TOGETHER // math.prod(configuration.patch_size))
    free, _ = torch.cuda.mem_get_info(device)
    needed = inference_memory(configuration.network, configuration.patch_size, activation_bytes=4)
    fit = int(free * _SHARE_OF_FREE) // (needed.activation_bytes + needed.workspace_bytes)
    return max(1, min(useful, fit))


def passes_together(configuration: Configuration, device: torch.device) -> int:
    """Return how many passes through networks to run at once: on a CPU one a core where their activations are small.

    One pass of a large network divides its operations among all cores as well, and takes memory once.
    """
    if device.type != "cpu":
        return 1
    needed = inference_memory(configuration.network, configuration.patch_size, activation_bytes=4)
    return min(torch.get_num_threads(), max(1, _PASSES_BYTES // needed.activation_bytes))


def _shown(prepared: PreparedCase, configuration: Configuration) -> NDArray[Any]:
    """Return the image [c, *plan axes], in a cascade with the previous stage's segmentation as its last channel."""
    if configuration.previous_stage is None:
        return prepared.image
    if prepared.previous is None:
        raise ModelError(f"the case has no segmentation of {configuration.previous_stage}", found=prepared.record.case)
    return np.concatenate([prepared.image, prepared.previous[None].astype(prepared.image.dtype)])


def _advance(bar: Any) -> Callable[[int], None]:
    def advance(count: int) -> None:
        bar.update(count)

    return advance
