"""Predict: files and folders in, masks on their exact grids out; a bad scan is reported and the others go on."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from siccs_net.errors import DataError, MissingPathError, RecordError, SiccsError, UsageError
from siccs_net.inference.predictor import Model
from siccs_net.io import files
from siccs_net.io.dataset import name_problems
from siccs_net.io.image import ENDINGS, Image, read_image
from siccs_net.records.prediction import PredictionRecord

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scan:
    """One scan to predict: its name and its files, one a channel; `problem` says why it is refused at once."""

    name: str
    paths: tuple[Path, ...]
    problem: SiccsError | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one scan."""

    scan: Scan
    status: Literal["written", "kept", "refused"]
    output: Path
    error: SiccsError | None = None
    record: PredictionRecord | None = None


def find_scans(source: Path, channels: int) -> list[Scan]:
    """Return the scans in a folder, or the one in a file, in the order of their names.

    CASE_0000.nii.gz is channel 0 of CASE; with one channel CASE.nii.gz is taken too. Raises MissingPathError for a
    path that does not exist, UsageError for a folder without an image.
    """
    if not source.exists():
        raise MissingPathError("the input does not exist", path=source)
    paths = [source] if source.is_file() else sorted(path for path in source.iterdir() if path.is_file())
    images = [path for path in paths if path.name.endswith(ENDINGS) and not path.name.startswith(".")]
    if source.is_file() and not images:
        raise UsageError("this file format is not read by this version", path=source, expected=" or ".join(ENDINGS))
    if not images:
        raise UsageError("the folder holds no image", path=source, expected=f"files ending in {' or '.join(ENDINGS)}")
    if source.is_file() and channels > 1:
        images = [path for path in source.parent.iterdir() if _case_name(path)[0] == _case_name(source)[0]]
    grouped: dict[str, dict[int, list[Path]]] = {}
    for path in sorted(images):
        name, channel = _case_name(path)
        grouped.setdefault(name, {}).setdefault(channel, []).append(path)
    return [_scan(name, found, channels) for name, found in sorted(grouped.items())]


def _case_name(path: Path) -> tuple[str, int]:
    ending = next((ending for ending in ENDINGS if path.name.endswith(ending)), "")
    stem = path.name.removesuffix(ending)
    match = re.fullmatch(r"(.+)_(\d{4})", stem, re.DOTALL)
    return (match[1], int(match[2])) if match else (stem, 0)


def _scan(name: str, found: dict[int, list[Path]], channels: int) -> Scan:
    paths = tuple(found[channel][0] for channel in sorted(found))
    twice = [path.name for several in found.values() if len(several) > 1 for path in several]
    bad_name = name_problems(name, paths[0])
    if bad_name:
        return Scan(name, paths, DataError(bad_name[0].message, path=paths[0].parent))
    if twice:
        return Scan(
            name, paths, DataError("two files for one channel of one scan", path=paths[0], found=", ".join(twice))
        )
    if sorted(found) != list(range(channels)):
        problem = DataError(
            "has other channels than the model",
            path=paths[0],
            found=f"channels {sorted(found)}",
            expected=f"{channels} ({name}_0000 …)" if channels > 1 else "one file",
        )
        return Scan(name, paths, problem)
    return Scan(name, paths)


def predict_scans(
    model: Model,
    scans: Sequence[Scan],
    output: Path,
    *,
    ending: str = ".nii.gz",
    overwrite: bool = False,
    assume_orientation: str | None = None,
    show_progress: bool = False,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Predict scans one after another into `output`/NAME.nii.gz with NAME.json beside each.

    A scan that cannot be read or predicted is reported as refused and the next one is taken. An existing output is
    kept when it was made from the same input by the same model, else refused unless `overwrite`.
    """
    outcomes = []
    for outcome in _outcomes(model, scans, output, ending, overwrite, assume_orientation, show_progress):
        on_outcome(outcome)
        outcomes.append(outcome)
    return outcomes


def _outcomes(
    model: Model,
    scans: Sequence[Scan],
    output: Path,
    ending: str,
    overwrite: bool,
    assume_orientation: str | None,
    show_progress: bool,
) -> Iterator[Outcome]:
    for scan in scans:
        target = output / f"{scan.name}{ending}"
        try:
            if scan.problem is not None:
                raise scan.problem
            if (kept := _existing(model, scan, target, overwrite=overwrite)) is not None:
                yield Outcome(scan, "kept", target, record=kept)
                continue
            image = read_image(scan.paths, assume_orientation=assume_orientation)
            record = _predict_one(model, scan, image, target, show_progress=show_progress)
        except (DataError, UsageError) as error:
            yield Outcome(scan, "refused", target, error=error)
            continue
        yield Outcome(scan, "written", target, record=record)


def _record_path(target: Path) -> Path:
    name = next(target.name.removesuffix(ending) for ending in ENDINGS if target.name.endswith(ending))
    return target.with_name(f"{name}.json")


def _existing(model: Model, scan: Scan, target: Path, *, overwrite: bool) -> PredictionRecord | None:
    """Return the record of an output that need not be made again. Raises DataError for one that is in the way."""
    if not target.exists() or overwrite:
        return None
    record = _read_record(_record_path(target))
    if record is not None and record.model_sha256 == model.sha256:
        inputs = tuple(map(files.file_sha256, scan.paths))
        if record.input_sha256 == inputs and record.output_sha256 == files.file_sha256(target):
            return record
    raise DataError(
        "the output exists and was not made from this input by this model",
        path=target,
        hint="--overwrite replaces it, or choose another output folder",
    )


def _read_record(path: Path) -> PredictionRecord | None:
    try:
        return files.read_record(path, PredictionRecord)
    except (MissingPathError, RecordError):
        return None  # then the output counts as somebody else's: it is refused, never replaced


def _predict_one(model: Model, scan: Scan, image: Image, target: Path, *, show_progress: bool) -> PredictionRecord:
    segmentation = model.predict(image, show_progress=show_progress)
    digest = segmentation.save(target)
    record = PredictionRecord(
        case=scan.name,
        input_sha256=image.sha256,
        model_sha256=model.sha256,
        output_sha256=digest,
        folds=model.folds,
        volumes_ml=segmentation.volumes_ml(),
    )
    files.write_record(_record_path(target), record)
    return record
