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
    ModelError,
    RecordError,
    SiccsError,
    UsageError,
)
from siccs_net.inference.postprocess import postprocess
from siccs_net.inference.predictor import Model
from siccs_net.io import files
from siccs_net.io.formats import (
    ending_of,
    endings,
    format_of,
    image_sha256,
    stem,
)
from siccs_net.io.image import Image, read_image
from siccs_net.io.probabilities import cases_with_probabilities
from siccs_net.io.probabilities import save_probabilities as save_levels
from siccs_net.io.tiff import TIFF
from siccs_net.pipeline.scans import Scan
from siccs_net.preprocessing.probabilities import LEVELS
from siccs_net.records.checkpoint import FinalRecord
from siccs_net.records.postprocessing import PostProcessing, PostStep
from siccs_net.records.prediction import PredictionRecord
from siccs_net.workspace import ModelFolder

_MEMORY_WORDS = ("DefaultCPUAllocator", "not enough memory", "out of memory")


@dataclass(frozen=True)
class Outcome:
    """What became of one scan."""

    scan: Scan
    status: Literal["written", "kept", "refused"]
    output: Path
    error: SiccsError | None = None
    record: PredictionRecord | None = None


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
