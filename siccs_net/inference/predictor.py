"""A model folder as an object: load it once, then predict scans given as files, Images or arrays."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from siccs_net.errors import ModelError, UsageError
from siccs_net.geometry import Grid, Orientation
from siccs_net.inference.ensemble import Ensemble, Member
from siccs_net.inference.skipping import ForegroundAtFaceError, Window, lung_window, whole_window
from siccs_net.inference.sliding_window import Slab
from siccs_net.inference.speed import SPEEDS, Speed
from siccs_net.inference.tiles import passes_together, run_tiles, tile_grid
from siccs_net.io.image import Image, Segmentation, check_same_grid, read_image, read_label
from siccs_net.io.store import PreparedCase
from siccs_net.preprocessing.preprocess import preprocess_case, restore_to_native
from siccs_net.preprocessing.previous_stage import stage_on_grid
from siccs_net.preprocessing.probabilities import native_levels
from siccs_net.preprocessing.statistics import image_normalisation
from siccs_net.records.checkpoint import Numerics
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.plan import Configuration
from siccs_net.records.prediction import Tiles

logger = logging.getLogger(__name__)
Source = Path | str | Sequence[Path] | Image | NDArray[Any]


@dataclass(frozen=True)
class Restored:
    """Label values [z, y, x] on a scan's canonical grid; on demand its probabilities (`native_levels`); tiles run."""

    labels: NDArray[Any]
    levels: NDArray[np.uint8] | None
    tiles: Tiles


@dataclass(frozen=True)
class Answer:
    """A scan's segmentation, on demand its class probabilities [class, z, y, x] in 255ths, and how many tiles ran."""

    segmentation: Segmentation
    levels: NDArray[np.uint8] | None
    tiles: Tiles


@dataclass(frozen=True)
class Model:
    """The fold models of a model folder, on a device, with what preprocessing and labels need.

    The second stage of a cascade has the model before it as `previous`, unless it was loaded without.
    """

    name: str
    configuration: Configuration
    labels: LabelScheme
    members: tuple[Member, ...]
    device: torch.device
    numerics: Numerics
    sha256: str
    previous: Model | None = None
    speed: Speed = "balanced"

    @property
    def folds(self) -> tuple[str, ...]:
        """The folds in the ensemble."""
        return tuple(member.fold for member in self.members)

    def with_settings(
        self,
        *,
        overlap: float | None = None,
        mirror: bool | None = None,
        skip: bool | None = None,
        speed: Speed = "balanced",
        keep_folds: bool = False,
    ) -> Model:
        """Return the model with another speed preset, overlap of tiles, or without mirroring or skipping.

        What is given by itself overrides the preset; `keep_folds` keeps the folds that are loaded. In a cascade both
        stages change. Raises UsageError for an overlap outside [0, 1).
        """
        if overlap is not None and not 0 <= overlap < 1:
            raise UsageError("the overlap of tiles must be in [0, 1)", found=overlap)
        inference = SPEEDS[speed].apply(self.configuration.inference)
        changes: dict[str, Any] = {} if overlap is None else {"overlap": overlap}
        changes |= {"mirror_axes": ()} if mirror is False else {}
        changes |= {"skip_outside": None} if skip is False else {}
        inference = inference.model_copy(update=changes)
        members = self.members if keep_folds else self.members[: SPEEDS[speed].most_folds]
        used = inference.model_dump_json() + ("" if members == self.members else ",".join(m.fold for m in members))
        previous = self.previous and self.previous.with_settings(
            overlap=overlap, mirror=mirror, skip=skip, speed=speed, keep_folds=keep_folds
        )
        return replace(
            self,
            configuration=self.configuration.model_copy(update={"inference": inference}),
            members=members,
            sha256=hashlib.sha256((self.sha256 + used).encode()).hexdigest(),
            previous=previous,
            speed=speed,
        )

    def predict(
        self,
        source: Source,
        *,
        grid: Grid | None = None,
        spacing_mm: Sequence[float] | None = None,
        assume_orientation: str | None = None,
        previous: Path | str | NDArray[Any] | None = None,
        show_progress: bool = False,
    ) -> Segmentation:
        """Segment one scan on its own grid.

        In a cascade the previous stage's mask is `previous` (a file, or label values on the scan's canonical grid
        [z, y, x]), or else the previous model's.

        `source` is an image's path, one path a channel, an Image, or a canonical array [z, y, x] or [c, z, y, x] with
        `grid` or `spacing_mm` (z, y, x). Raises the reader's errors, or EnvironmentProblem when memory runs out.
        """
        image = as_image(source, grid=grid, spacing_mm=spacing_mm, assume_orientation=assume_orientation)
        return self.segment(image, self.prepare(image), previous=previous, show_progress=show_progress).segmentation

    def prepare(self, image: Image) -> PreparedCase:
        """Prepare a scan as the plan says: what of `predict` needs no network, and may run ahead of it."""
        return preprocess_case(image, None, self.configuration, self.labels, case="scan")

    def segment(
        self,
        image: Image,
        prepared: PreparedCase,
        *,
        previous: Path | str | NDArray[Any] | None = None,
        probabilities: bool = False,
        show_progress: bool = False,
    ) -> Answer:
        """Segment a scan that was prepared, and on demand return its class probabilities too.

        `previous` is as in `predict`. With `probabilities` the logits are held whole, on the network's grid, so that
        mask and probabilities come from one run.
        """
        if self.configuration.previous_stage is not None:
            mask = self._previous_mask(image, previous, show_progress=show_progress)
            stage = stage_on_grid(mask, prepared.record.geometry, self.configuration, self.labels)
            prepared = replace(prepared, previous=stage)
        elif previous is not None:
            raise UsageError("the model is no second stage, so it takes no previous mask", found=self.name)
        found = self.restore(prepared, image.orientation, probabilities=probabilities, show_progress=show_progress)
        segmentation = Segmentation(found.labels[None], image.orientation, self.labels.reported, image.header)
        return Answer(segmentation, found.levels, found.tiles)

    def restore(
        self,
        prepared: PreparedCase,
        orientation: Orientation,
        *,
        probabilities: bool = False,
        show_progress: bool = False,
    ) -> Restored:
        """Run the tiles of a prepared case and return its labels on the canonical version of the scan's grid.

        Tiles outside the lungs' box are skipped where the plan says so; where foreground is found on a face of the box,
        which might cut it, the whole scan is run after all.
        """
        axes = tile_grid(prepared, self.configuration)
        if self.configuration.inference.skip_outside is None:
            return self._restored(
                prepared, orientation, whole_window(axes, why="nothing"), probabilities, show_progress
            )
        window = lung_window(prepared, axes)
        try:
            return self._restored(prepared, orientation, window, probabilities, show_progress)
        except ForegroundAtFaceError:
            logger.info("foreground reaches a face of the lungs' box: nothing is skipped in this scan")
            window = whole_window(axes, why="nothing: foreground at the face of the lungs' box")
            return self._restored(prepared, orientation, window, probabilities, show_progress)

    def _restored(
        self, prepared: PreparedCase, orientation: Orientation, window: Window, probabilities: bool, show_progress: bool
    ) -> Restored:
        slabs: Iterable[Slab] = self._run(prepared, window, show_progress=show_progress)
        geometry = prepared.record.geometry
        levels = None
        if probabilities:
            slabs = list(slabs)
            levels = native_levels(slabs, geometry, self.labels, orientation)
        labels = restore_to_native(iter(slabs), geometry, self.labels, orientation)
        return Restored(labels, levels, window.tiles)

    def _previous_mask(
        self, image: Image, given: Path | str | NDArray[Any] | None, *, show_progress: bool
    ) -> NDArray[Any]:
        """Return the previous stage's mask [z, y, x] of label values on the scan's canonical grid."""
        if isinstance(given, np.ndarray):
            return given
        if given is not None:
            read = read_label(Path(given))
            check_same_grid(read.orientation, image.orientation, path=Path(given), other="the scan")
            mask: NDArray[Any] = read.array[0]
            return mask
        if self.previous is None:
            raise ModelError(
                f"the previous stage {self.configuration.previous_stage} was not loaded", hint="Give its masks"
            )
        labels: NDArray[Any] = self.previous.predict(image, show_progress=show_progress).array[0]
        return labels

    def logits(self, prepared: PreparedCase, *, show_progress: bool = False) -> Iterator[Slab]:
        """Yield the ensemble's mean logits of a prepared case, slab by slab (start, [classes, d, y, x]); all tiles."""
        window = whole_window(tile_grid(prepared, self.configuration), why="nothing")
        return self._run(prepared, window, show_progress=show_progress)

    def _run(self, prepared: PreparedCase, window: Window, *, show_progress: bool) -> Iterator[Slab]:
        ensemble = self._ensemble(prepared)
        return run_tiles(prepared, window, ensemble, self.configuration, self.labels, show_progress=show_progress)

    def _ensemble(self, prepared: PreparedCase) -> Ensemble:
        statistics = prepared.record.statistics_all
        members = [
            replace(member, normalisation=image_normalisation(member.normalisation, statistics))
            for member in self.members
        ]
        mirror = self.configuration.patch_axes(self.configuration.inference.mirror_axes)
        together = passes_together(self.configuration, self.device)
        return Ensemble(members, mirror, self.device, self.numerics, self.configuration.stage_channels, together)


def as_image(
    source: Source,
    *,
    grid: Grid | None = None,
    spacing_mm: Sequence[float] | None = None,
    assume_orientation: str | None = None,
) -> Image:
    """Return any kind of source as an Image."""
    if isinstance(source, Image):
        return source
    if isinstance(source, np.ndarray):
        return Image.from_array(source, grid, spacing_mm=spacing_mm)
    paths = [Path(source)] if isinstance(source, str | Path) else [Path(str(path)) for path in source]
    return read_image(paths, assume_orientation=assume_orientation)
