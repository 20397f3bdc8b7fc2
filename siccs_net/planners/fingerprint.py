"""The fingerprint: one read of each case's files gives its statistics and everything that is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import SiccsError
from siccs_net.geometry import Grid
from siccs_net.io.dataset import Case, Dataset, Problem
from siccs_net.io.formats import image_sha256
from siccs_net.io.image import Image, estimate_voxels, read_case
from siccs_net.io.memory import workers_that_fit
from siccs_net.parallel import run_all
from siccs_net.preprocessing.crop import body_box, crop
from siccs_net.preprocessing.lung_box import LUNG_THRESHOLD_HU, beyond_box_mm, lung_box
from siccs_net.preprocessing.statistics import measure
from siccs_net.records.case import Box
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.fingerprint import CaseFingerprint, Fingerprint

_MANY_LABELS = 1 << 16
BODY_THRESHOLD_HU = -500.0
BODY_MARGIN_MM = 10.0


@dataclass(frozen=True)
class Examination:
    """What one read of a case found: its fingerprint (None when unusable) and its problems."""

    case: str
    fingerprint: CaseFingerprint | None
    problems: tuple[Problem, ...] = ()


def is_ct(dataset: Dataset) -> bool:
    """Say whether channel 0 is CT in HU (its name in dataset.json is 'CT' in any case)."""
    return dataset.description.channel_names["0"].strip().lower() == "ct"


def examine_dataset(
    dataset: Dataset, known: Fingerprint | None = None, *, workers: int | None = None
) -> Iterator[Examination]:
    """Yield the examination of every case as it is done; one whose files' hashes stand in `known` is not read again."""
    reusable = {case.case: case for case in known.cases} if known is not None and _same_crop(dataset, known) else {}
    jobs = [(case, reusable.get(name)) for name, case in dataset.cases.items()]
    images = [path for case, _ in jobs for path in case.images]
    at_a_time = workers_that_fit(workers, images, lambda: [_needed_bytes(case) for case, _ in jobs])
    for _, examination in run_all(lambda job: _examine(dataset, *job), jobs, workers=at_a_time):
        yield examination


def _needed_bytes(case: Case) -> int:
    """Return the memory that examining a case takes at most: voxels of 4 bytes, and two masks of them."""
    try:
        return (4 * len(case.images) + 6) * estimate_voxels(case.images[0])
    except SiccsError:  # its examination will name what is wrong
        return 0


def _same_crop(dataset: Dataset, known: Fingerprint) -> bool:
    body, lung = (BODY_THRESHOLD_HU, LUNG_THRESHOLD_HU) if is_ct(dataset) else (None, None)
    same = known.crop_threshold_hu == body and known.crop_margin_mm == BODY_MARGIN_MM
    return same and known.lung_threshold_hu == lung


def make_fingerprint(dataset: Dataset, examinations: list[Examination]) -> Fingerprint:
    """Return the fingerprint of a dataset from its cases' examinations, in the order of case names."""
    cases = [item.fingerprint for item in examinations if item.fingerprint is not None]
    return Fingerprint(
        dataset_name=dataset.name,
        crop_threshold_hu=BODY_THRESHOLD_HU if is_ct(dataset) else None,
        crop_margin_mm=BODY_MARGIN_MM,
        lung_threshold_hu=LUNG_THRESHOLD_HU if is_ct(dataset) else None,
        cases=tuple(sorted(cases, key=lambda case: case.case)),
    )


def _examine(dataset: Dataset, case: Case, known: CaseFingerprint | None) -> Examination:
    if known is not None and _unchanged(case, known) and {int(v) for v in known.label_voxels} <= dataset.labels.values:
        problems = (*_content_problems(case, known.label_voxels, dataset.labels), *_not_levels(dataset, case, known))
        return Examination(case.name, known, problems)
    try:
        channels = dataset.description.channels
        found = examine_case(case, dataset.labels, ct=is_ct(dataset), channels=channels)
        return replace(found, problems=(*found.problems, *_not_levels(dataset, case, found.fingerprint)))
    except SiccsError as error:
        return Examination(case.name, None, (_problem(case, error),))


def _unchanged(case: Case, known: CaseFingerprint) -> bool:
    paths = [*case.images, *([case.label] if case.label else [])]
    return all(path.is_file() for path in paths) and tuple(map(image_sha256, paths)) == known.input_sha256


def _problem(case: Case, error: SiccsError) -> Problem:
    kind = {"GeometryError": "geometry", "MissingPathError": "missing file"}.get(
        type(error).__name__, "unreadable file"
    )
    return Problem(kind, f"{case.name}: {error}", case.name, error.path)


def examine_case(case: Case, labels: LabelScheme, *, ct: bool, channels: int | None = None) -> Examination:
    """Read one case's image and label once and measure them.

    Returns its fingerprint with all findings about its label; raises ImageError or GeometryError when a file cannot
    be used at all.
    """
    image, label = read_case(case.images, case.label, channels=channels)
    grid = image.grid
    box = body_box(image.array[0], grid.spacing_mm) if ct else _whole(grid)
    voxels = _count_labels(label.array[0])
    problems = [
        *_value_problems(case, label.array[0], voxels, labels),
        *_outside(case, label.array[0], box, labels),
        *_not_hu(case, image, ct),
    ]
    fingerprint = _fingerprint(case, image, label, box, voxels, labels)
    if ct:
        beyond = _beyond_lungs(image, label, box, labels)
        fingerprint = fingerprint.model_copy(update={"beyond_lungs_mm": beyond})
    return Examination(case.name, fingerprint, (*problems, *_content_problems(case, fingerprint.label_voxels, labels)))


def _whole(grid: Grid) -> Box:
    z, y, x = grid.shape
    return (0, z), (0, y), (0, x)


def _count_labels(label: NDArray[Any]) -> dict[str, int]:
    """Return how often each value occurs, plane by plane: sorting a whole CT's labels takes seconds."""
    total: Counter[int] = Counter()
    for plane in label:
        if plane.min() >= 0 and plane.max() < _MANY_LABELS:
            counts = np.bincount(plane.ravel())
            total.update({int(value): int(counts[value]) for value in np.flatnonzero(counts)})
        else:
            total.update(dict(zip(*(part.tolist() for part in np.unique(plane, return_counts=True)), strict=True)))
    return {str(value): total[value] for value in sorted(total)}


def _fingerprint(
    case: Case, image: Image, label: Image, box: Box, voxels: dict[str, int], labels: LabelScheme
) -> CaseFingerprint:
    inside, mask = crop(image.array, box), _labelled(crop(label.array[0], box), labels)
    foreground = tuple(measure(channel, mask) for channel in inside) if mask.any() else ()
    return CaseFingerprint(
        case=case.name,
        input_sha256=(*image.sha256, *label.sha256),
        spacing_mm=image.grid.spacing_mm,
        shape=image.grid.shape,
        crop_box=box,
        label_voxels=voxels,
        statistics_all=tuple(measure(channel) for channel in inside),
        statistics_foreground=foreground,
    )


def _beyond_lungs(image: Image, label: Image, box: Box, labels: LabelScheme) -> float | None:
    """Return how far the foreground reaches beyond the lungs' box (mm), within the body; None without lungs."""
    lungs = lung_box(crop(image.array[0], box), image.grid.spacing_mm, margin_mm=0.0)
    if lungs is None:
        return None
    return beyond_box_mm(_labelled(crop(label.array[0], box), labels), lungs, image.grid.spacing_mm)


def _value_problems(case: Case, label: NDArray[Any], voxels: dict[str, int], labels: LabelScheme) -> Iterator[Problem]:
    for value in sorted({int(text) for text in voxels} - labels.values):
        z, y, x = (int(place) for place in np.unravel_index(int(np.argmax(label == value)), label.shape))
        message = (
            f"{case.name}: the label map holds the value {value}, which dataset.json does not name "
            f"({voxels[str(value)]} voxels, the first at z {z}, y {y}, x {x}; named are {sorted(labels.values)})"
        )
        yield Problem("label value", message, case.name, case.label)


def _labelled(label: NDArray[Any], labels: LabelScheme) -> NDArray[np.bool_]:
    """Return where a label map has foreground; the ignore label, which may fill whole slices, is none."""
    foreground: NDArray[np.bool_] = label != 0
    return foreground if labels.ignore is None else foreground & (label != labels.ignore)


def _outside(case: Case, label: NDArray[Any], box: Box, labels: LabelScheme) -> Iterator[Problem]:
    labelled = int(np.count_nonzero(_labelled(label, labels)))
    outside = labelled - int(np.count_nonzero(_labelled(crop(label, box), labels)))
    if outside:
        message = f"{case.name}: {outside} labelled voxels lie outside the body (its box is {box} in z, y, x)"
        yield Problem("label outside body", message, case.name, case.label)


def _not_hu(case: Case, image: Image, ct: bool) -> Iterator[Problem]:
    if ct and (low := float(image.array[0].min())) > -500:
        message = f"{case.name}: the lowest value is {low:g}; a chest CT in HU holds air near -1000"
        yield Problem("not in HU", message, case.name, case.images[0], "warning")


def _not_levels(dataset: Dataset, case: Case, found: CaseFingerprint | None) -> Iterator[Problem]:
    """Name channels called rgb_to_0_1 whose numbers are no 8-bit levels: they are divided by 255."""
    for number, name in dataset.description.channel_names.items():
        if found is None or name.strip().lower() != "rgb_to_0_1":
            continue
        own = found.statistics_all[int(number)]
        if own.minimum < 0 or own.maximum > 255:
            message = f"{case.name}: channel {number} is called rgb_to_0_1 but holds {own.minimum:g} to {own.maximum:g}"
            yield Problem("channel range", f"{message}; 0 to 255 are expected", case.name, case.images[0])


def _content_problems(case: Case, voxels: dict[str, int], labels: LabelScheme) -> tuple[Problem, ...]:
    if set(voxels) == {str(labels.ignore)}:
        message = f"{case.name}: every voxel has the ignore label, so there is nothing to learn from or to measure"
        return (Problem("empty label", message, case.name, case.label, "warning"),)
    if set(voxels) - {"0", str(labels.ignore)}:
        return ()
    message = f"{case.name}: the label map holds only background"
    return (Problem("empty label", message, case.name, case.label, "warning"),)
