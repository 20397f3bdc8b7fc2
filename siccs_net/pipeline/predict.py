"""Predict: files and folders in, masks on their exact grids out; a bad scan is reported and the others go on."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from siccs_net.errors import (
    DataError,
    EnvironmentProblem,
    MissingPathError,
    ModelError,
    RecordError,
    SiccsError,
    UnavailableError,
    UsageError,
)
from siccs_net.inference.postprocess import postprocess
from siccs_net.inference.predictor import Model
from siccs_net.io import files
from siccs_net.io.dataset import split_channel
from siccs_net.io.formats import (
    ending_of,
    endings,
    format_of,
    image_sha256,
    is_other_image,
    is_readable,
    stem,
    use_installed_readers,
)
from siccs_net.io.image import Image, read_image
from siccs_net.io.probabilities import cases_with_probabilities
from siccs_net.io.probabilities import save_probabilities as save_levels
from siccs_net.io.problem import name_problems, printable
from siccs_net.io.tiff import TIFF
from siccs_net.preprocessing.probabilities import LEVELS
from siccs_net.records.checkpoint import FinalRecord
from siccs_net.records.postprocessing import PostProcessing, PostStep
from siccs_net.records.prediction import PredictionRecord
from siccs_net.workspace import ModelFolder

_MEMORY_WORDS = ("DefaultCPUAllocator", "not enough memory", "out of memory")


@dataclass(frozen=True)
class Scan:
    """One scan to predict: its name and its files, one a channel.

    `problem` says why it is refused at once; its paths are then all the files that are refused with it. `channels` is
    how many the model takes, `previous` the previous stage's mask for a cascade, where it is given.
    """

    name: str
    paths: tuple[Path, ...]
    problem: SiccsError | None = None
    channels: int | None = None
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
    belongs to the name (`split_channel`). A colour picture may hold all channels. Any ending that is read is taken;
    images in another format are scans with a `problem`. Raises
    MissingPathError for a path that does not exist, UsageError for a folder without an image.
    """
    if not source.exists():
        raise MissingPathError("the input does not exist", path=source)
    use_installed_readers()
    if source.is_file():
        return _scans_of_file(source, channels)
    paths = _visible_files(source)
    images = [path for path in paths if is_readable(path)]
    scans = [*_group(images, channels), *(_other_format(path) for path in paths if is_other_image(path))]
    if not scans:
        raise UsageError("the folder holds no image", path=source, expected=f"files ending in {' or '.join(endings())}")
    return sorted(scans, key=lambda scan: scan.name)


def _visible_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _scans_of_file(path: Path, channels: int) -> list[Scan]:
    format_of(path)
    if channels == 1:
        return _group([path], channels)
    images = [other for other in sorted(path.parent.iterdir()) if is_readable(other)]
    return [scan for scan in _group(images, channels) if path in scan.paths]


def _group(images: Sequence[Path], channels: int) -> list[Scan]:
    names = {stem(path) for path in images}
    grouped: dict[str, dict[int, list[Path]]] = {}
    for path in images:
        name, channel = split_channel(stem(path), names, channels)
        grouped.setdefault(name, {}).setdefault(channel, []).append(path)
    return [_scan(name, found, channels) for name, found in sorted(grouped.items())]


def _other_format(path: Path) -> Scan:
    problem: SiccsError = UnavailableError(
        "this file format is not read by this version", path=path, expected=" or ".join(endings())
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
    elif problem is None and sorted(found) != list(range(channels)) and not _in_colour(paths, found):
        problem = DataError(
            "has other channels than the model",
            path=paths[0],
            found=f"channels {sorted(found)} ({listed})",
            expected=f"{channels} ({name}_0000 …)" if channels > 1 else "one file",
        )
    return Scan(printable(name), paths, problem, channels)


def _in_colour(paths: Sequence[Path], found: Collection[int]) -> bool:
    return set(found) == {0} and format_of(paths[0]).several_channels


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
    found = [folder / f"{scan.name}{ending}" for ending in endings() if (folder / f"{scan.name}{ending}").is_file()]
    if found:
        return replace(scan, previous=found[0])
    expected = f"{scan.name}{endings()[0]}"
    problem = DataError("the scan has no mask of the previous stage", path=folder, expected=expected)
    return replace(scan, problem=problem)


def predict_scans(
    model: Model,
    scans: Sequence[Scan],
    output: Path,
    *,
    ending: str | None = None,
    overwrite: bool = False,
    assume_orientation: str | None = None,
    show_progress: bool = False,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    postprocessing: Sequence[PostStep] = (),
    save_probabilities: bool = False,
) -> list[Outcome]:
    """Predict scans one after another into `output`/NAME with the scan's own ending (or `ending`), and NAME.json.

    `postprocessing` steps change the masks; with `save_probabilities` the class probabilities, which they do not
    change, are kept beside each mask.

    A scan that cannot be read or predicted, or is too large for the memory, is reported as refused and the next one
    is taken. An existing output is kept when it was made from the same input by the same model, else refused unless
    `overwrite`. Raises UsageError before any work when a mask would replace an input or `output` is no folder.
    """
    _check_output(scans, output, ending)
    outcomes = []
    output.mkdir(parents=True, exist_ok=True)
    maker = _Maker(model, tuple(postprocessing), save_probabilities, assume_orientation, show_progress)
    for outcome in _outcomes(maker, scans, output, ending, overwrite):
        on_outcome(outcome)
        outcomes.append(outcome)
    return outcomes


def _target(scan: Scan, output: Path, ending: str | None) -> Path:
    return output / f"{scan.name}{ending or ending_of(scan.paths[0]) or ''}"


def _check_output(scans: Sequence[Scan], output: Path, ending: str | None) -> None:
    hint = "Choose another output folder"
    if output.name.lower().endswith(endings()) or output.is_file():
        raise UsageError("the output is a folder, not a file", path=output, hint=hint)
    statuses = [path.stat() for scan in scans for path in scan.inputs if path.exists()]
    inputs = {(status.st_dev, status.st_ino) for status in statuses}
    for scan in scans:
        target = _target(scan, output, ending)
        if target.exists() and (target.stat().st_dev, target.stat().st_ino) in inputs:
            raise UsageError("the mask would replace an input file", path=target, hint=hint)


@dataclass(frozen=True)
class _Maker:
    """What makes every mask of a run."""

    model: Model
    postprocessing: tuple[PostStep, ...]
    save_probabilities: bool
    assume_orientation: str | None
    show_progress: bool


def part_of(scans: Sequence[Scan], parts: int, part: int) -> list[Scan]:
    """Return the scans of one of so many parts, counted from 0: each scan is in exactly one part.

    Raises UsageError for a part that does not exist.
    """
    if parts < 1 or not 0 <= part < parts:
        raise UsageError(f"there is no part {part} of {parts}", expected=f"0 to {parts - 1}" if parts > 0 else None)
    return list(scans[part::parts])


def postprocessing_of(folder: Path, folds: Sequence[str]) -> tuple[PostStep, ...]:
    """Return the steps of a model folder's postprocessing.json; none without that file.

    Raises ModelError when they were decided on masks of other weights than these folds have now.
    """
    paths = ModelFolder(folder)
    if not paths.postprocessing.is_file():
        return ()
    found = files.read_record(paths.postprocessing, PostProcessing)
    if found.weights_sha256:
        numbered = [paths.fold(fold) for fold in folds if fold.isdigit()]
        there = {files.read_record(run.record, FinalRecord).weights_sha256 for run in numbered}
        if there - set(found.weights_sha256):
            raise ModelError(
                "was decided on masks of other weights than these folds have",
                path=paths.postprocessing,
                hint="Run siccs_find_best_configuration again, or predict with --no-postprocessing",
            )
    return found.steps


def _outcomes(
    maker: _Maker, scans: Sequence[Scan], output: Path, ending: str | None, overwrite: bool
) -> Iterator[Outcome]:
    for scan in scans:
        target = _target(scan, output, ending)
        refusal = None
        try:
            if scan.problem is not None:
                raise scan.problem
            if (kept := _existing(maker, scan, target, overwrite=overwrite)) is not None:
                yield Outcome(scan, "kept", target, record=kept)
                continue
            image = read_image(scan.paths, assume_orientation=maker.assume_orientation, channels=scan.channels)
            record = _predict_one(maker, scan, image, target)
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
    return target.with_name(f"{stem(target)}.json")


def _existing(maker: _Maker, scan: Scan, target: Path, *, overwrite: bool) -> PredictionRecord | None:
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
    if record is not None and _is_made_so(maker, record, target):
        inputs = tuple(map(image_sha256, scan.inputs))
        if record.input_sha256 == inputs and record.output_sha256 == image_sha256(target):
            return record
    raise DataError(
        "the output exists and was not made from this input by this model",
        path=target,
        hint="--overwrite replaces it, or choose another output folder",
    )


def _is_made_so(maker: _Maker, record: PredictionRecord, target: Path) -> bool:
    saved = not maker.save_probabilities or record.case in cases_with_probabilities(target.parent)
    return saved and (record.model_sha256, record.postprocessing) == (maker.model.sha256, maker.postprocessing)


def _read_record(path: Path) -> PredictionRecord | None:
    try:
        return files.read_record(path, PredictionRecord)
    except (MissingPathError, RecordError):
        return None  # then the output counts as somebody else's: it is refused, never replaced


def _predict_one(maker: _Maker, scan: Scan, image: Image, target: Path) -> PredictionRecord:
    model, levels = maker.model, None
    if maker.save_probabilities:
        segmentation, levels = model.predict_with_probabilities(
            image, previous=scan.previous, show_progress=maker.show_progress
        )
    else:
        segmentation = model.predict(image, previous=scan.previous, show_progress=maker.show_progress)
    if maker.postprocessing:
        array = postprocess(segmentation.array[0], maker.postprocessing, segmentation.grid.spacing_mm)[None]
        segmentation = replace(segmentation, array=array)
    if levels is not None:
        sources = (model.sha256,)
        save_levels(target.parent, scan.name, levels, LEVELS, model.labels, segmentation.orientation, sources)
    digest = segmentation.save(target)
    record = PredictionRecord(
        case=scan.name,
        input_sha256=(*image.sha256, *map(files.file_sha256, scan.inputs[len(scan.paths) :])),
        model_sha256=model.sha256,
        output_sha256=digest,
        folds=model.folds,
        volumes_ml=segmentation.volumes_ml(),
        postprocessing=maker.postprocessing,
        spacing=segmentation.grid.spacing_mm if format_of(target) is TIFF else None,
    )
    files.write_record(_record_path(target), record)
    return record
