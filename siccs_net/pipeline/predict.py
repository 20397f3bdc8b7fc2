"""Predict: files and folders in, masks on their exact grids out; a bad scan is reported and the others go on."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from siccs_net.errors import (
    DataError,
    EnvironmentProblem,
    MissingPathError,
    RecordError,
    SiccsError,
    UnavailableError,
    UsageError,
)
from siccs_net.inference.predictor import Model
from siccs_net.io import files
from siccs_net.io.dataset import is_other_image, name_problems, printable, split_channel
from siccs_net.io.image import ENDINGS, Image, read_image
from siccs_net.records.prediction import PredictionRecord

_MEMORY_WORDS = ("DefaultCPUAllocator", "not enough memory", "out of memory")


@dataclass(frozen=True)
class Scan:
    """One scan to predict: its name and its files, one a channel.

    `problem` says why it is refused at once; its paths are then all the files that are refused with it. `previous` is
    the previous stage's mask for a cascade, where it is given.
    """

    name: str
    paths: tuple[Path, ...]
    problem: SiccsError | None = None
    previous: Path | None = None

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Every file that the mask is made from."""
        return self.paths if self.previous is None else (*self.paths, self.previous)


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

    CASE_0000.nii.gz is channel 0 of CASE; with one channel CASE.nii.gz is taken too, and a number other than _0000
    belongs to the name (`split_channel`). Images in another format are scans with a `problem`. Raises
    MissingPathError for a path that does not exist, UsageError for a folder without an image.
    """
    if not source.exists():
        raise MissingPathError("the input does not exist", path=source)
    if source.is_file():
        return _scans_of_file(source, channels)
    paths = _visible_files(source)
    images = [path for path in paths if path.name.endswith(ENDINGS)]
    scans = [*_group(images, channels), *(_other_format(path) for path in paths if is_other_image(path))]
    if not scans:
        raise UsageError("the folder holds no image", path=source, expected=f"files ending in {' or '.join(ENDINGS)}")
    return sorted(scans, key=lambda scan: scan.name)


def _visible_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _scans_of_file(path: Path, channels: int) -> list[Scan]:
    if not path.name.endswith(ENDINGS):
        raise UsageError("this file format is not read by this version", path=path, expected=" or ".join(ENDINGS))
    if channels == 1:
        return _group([path], channels)
    images = [other for other in sorted(path.parent.iterdir()) if other.name.endswith(ENDINGS)]
    return [scan for scan in _group(images, channels) if path in scan.paths]


def _group(images: Sequence[Path], channels: int) -> list[Scan]:
    names = {_stem(path) for path in images}
    grouped: dict[str, dict[int, list[Path]]] = {}
    for path in images:
        name, channel = split_channel(_stem(path), names, channels)
        grouped.setdefault(name, {}).setdefault(channel, []).append(path)
    return [_scan(name, found, channels) for name, found in sorted(grouped.items())]


def _stem(path: Path) -> str:
    return path.name.removesuffix(next(ending for ending in ENDINGS if path.name.endswith(ending)))


def _other_format(path: Path) -> Scan:
    problem: SiccsError = UnavailableError(
        "this file format is not read by this version", path=path, expected=" or ".join(ENDINGS)
    )
    return Scan(printable(path.name), (path,), _name_problem(path.name, path) or problem)


def _name_problem(name: str, path: Path) -> DataError | None:
    problems = name_problems(name, path)
    return DataError(problems[0].message, path=path.parent) if problems else None


def _scan(name: str, found: dict[int, list[Path]], channels: int) -> Scan:
    paths = tuple(path for channel in sorted(found) for path in found[channel])
    problem = _name_problem(name, paths[0])
    listed = ", ".join(path.name for path in paths)
    if problem is None and len(paths) > len(found):
        problem = DataError("two files for one channel of one scan", path=paths[0], found=listed)
    elif problem is None and sorted(found) != list(range(channels)):
        problem = DataError(
            "has other channels than the model",
            path=paths[0],
            found=f"channels {sorted(found)} ({listed})",
            expected=f"{channels} ({name}_0000 …)" if channels > 1 else "one file",
        )
    return Scan(printable(name), paths, problem)


def with_previous_masks(scans: Sequence[Scan], folder: Path) -> list[Scan]:
    """Return the scans with the previous stage's masks in a folder: NAME.nii.gz, or another ending that is read.

    A scan without one is refused in its turn. Raises MissingPathError for a folder that does not exist.
    """
    if not folder.is_dir():
        raise MissingPathError("the folder of the previous stage's masks does not exist", path=folder)
    return [_with_previous_mask(scan, folder) for scan in scans]


def _with_previous_mask(scan: Scan, folder: Path) -> Scan:
    if scan.problem is not None:
        return scan
    found = [folder / f"{scan.name}{ending}" for ending in ENDINGS if (folder / f"{scan.name}{ending}").is_file()]
    if found:
        return replace(scan, previous=found[0])
    problem = DataError("the scan has no mask of the previous stage", path=folder, expected=f"{scan.name}{ENDINGS[0]}")
    return replace(scan, problem=problem)


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

    A scan that cannot be read or predicted, or is too large for the memory, is reported as refused and the next one
    is taken. An existing output is kept when it was made from the same input by the same model, else refused unless
    `overwrite`. Raises UsageError before any work when a mask would replace an input or `output` is no folder.
    """
    _check_output(scans, output, ending)
    outcomes = []
    for outcome in _outcomes(model, scans, output, ending, overwrite, assume_orientation, show_progress):
        on_outcome(outcome)
        outcomes.append(outcome)
    return outcomes


def _check_output(scans: Sequence[Scan], output: Path, ending: str) -> None:
    hint = "Choose another output folder"
    if output.name.lower().endswith(ENDINGS) or output.is_file():
        raise UsageError("the output is a folder, not a file", path=output, hint=hint)
    statuses = [path.stat() for scan in scans for path in scan.inputs if path.exists()]
    inputs = {(status.st_dev, status.st_ino) for status in statuses}
    for scan in scans:
        target = output / f"{scan.name}{ending}"
        if target.exists() and (target.stat().st_dev, target.stat().st_ino) in inputs:
            raise UsageError("the mask would replace an input file", path=target, hint=hint)


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
        refusal = None
        try:
            if scan.problem is not None:
                raise scan.problem
            if (kept := _existing(model, scan, target, overwrite=overwrite)) is not None:
                yield Outcome(scan, "kept", target, record=kept)
                continue
            image = read_image(scan.paths, assume_orientation=assume_orientation)
            record = _predict_one(model, scan, image, target, show_progress=show_progress)
        except (DataError, UsageError, EnvironmentProblem, MemoryError, RuntimeError) as error:
            refusal = _refusal(scan, error)
            if refusal is None:
                raise
        if refusal is not None:
            yield Outcome(scan, "refused", target, error=refusal)
        else:
            yield Outcome(scan, "written", target, record=record)


def _refusal(scan: Scan, error: Exception) -> SiccsError | None:
    """Return why one scan is refused, or None for an error that the next scan would meet too, as a full disk."""
    chain = [error, *(other for other in (error.__cause__, error.__context__) if other is not None)]
    if not isinstance(error, DataError | UsageError) and not any(map(_is_out_of_memory, chain)):
        return None
    for link in chain:
        traceback.clear_frames(link.__traceback__)  # else the scan's arrays stay in memory as long as the error
    if isinstance(error, DataError | UsageError):
        return error
    return EnvironmentProblem(
        "the memory is too small to predict this scan",
        path=scan.paths[0],
        found=str(error) or type(error).__name__,
        hint="Predict it on a machine with more memory, with --device cpu, or with fewer folds",
    )


def _is_out_of_memory(error: BaseException) -> bool:
    """Recognise torch's errors by their words: on the CPU they are plain RuntimeErrors."""
    if isinstance(error, RuntimeError):
        return type(error).__name__ == "OutOfMemoryError" or any(words in str(error) for words in _MEMORY_WORDS)
    return isinstance(error, MemoryError)


def _record_path(target: Path) -> Path:
    name = next(target.name.removesuffix(ending) for ending in ENDINGS if target.name.endswith(ending))
    return target.with_name(f"{name}.json")


def _existing(model: Model, scan: Scan, target: Path, *, overwrite: bool) -> PredictionRecord | None:
    """Return the record of an output that need not be made again. Raises DataError for a file that is in the way."""
    beside = _record_path(target)
    if overwrite or not (target.exists() or beside.exists()):
        return None
    record = _read_record(beside)
    if not target.exists():
        if record is None:
            raise DataError(
                "is in the way of the mask's record and was not written by this package",
                path=beside,
                hint="--overwrite replaces it, or choose another output folder",
            )
        return None
    if record is not None and record.model_sha256 == model.sha256:
        inputs = tuple(map(files.file_sha256, scan.inputs))
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
    segmentation = model.predict(image, previous=scan.previous, show_progress=show_progress)
    digest = segmentation.save(target)
    record = PredictionRecord(
        case=scan.name,
        input_sha256=(*image.sha256, *map(files.file_sha256, scan.inputs[len(scan.paths) :])),
        model_sha256=model.sha256,
        output_sha256=digest,
        folds=model.folds,
        volumes_ml=segmentation.volumes_ml(),
    )
    files.write_record(_record_path(target), record)
    return record
