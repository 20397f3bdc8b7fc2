"""Predict: files and folders in, masks on their exact grids out; a bad scan is reported and the others go on."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

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
from siccs_net.inference.predictor import Answer, Model
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
from siccs_net.io.store import PreparedCase
from siccs_net.io.tiff import TIFF
from siccs_net.pipeline.memory import has_room
from siccs_net.pipeline.scans import Scan
from siccs_net.pipeline.stages import Stages
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
    """Predict scans in their order into `output`/NAME with the scan's own ending (or `ending`), and NAME.json.

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


@dataclass(frozen=True)
class _Ready:
    """A scan that was read and prepared; its `image` is left without voxels where only the prepared ones are needed."""

    image: Image
    prepared: PreparedCase


def _outcomes(
    maker: _Maker, scans: Sequence[Scan], output: Path, ending: str | None, overwrite: bool
) -> Iterator[Outcome]:
    """Yield what becomes of each scan, in order: read and prepared ahead, segmented here, written behind."""

    def target(scan: Scan) -> Path:
        return _target(scan, output, ending)

    stages = Stages(
        read=lambda scan: _read(maker, scan, target(scan), overwrite=overwrite),
        compute=lambda scan, ready: _segment(maker, scan, ready),
        write=lambda scan, made: _write(maker, scan, made, target(scan)),
        may_read_ahead=_may_read_ahead,
        is_memory=_is_memory,
        errors=(DataError, UsageError, EnvironmentProblem, MemoryError, RuntimeError),
    )
    with contextlib.closing(stages.run(scans)) as results:
        for scan, result in results:
            if not isinstance(result, Exception):
                status, record = result
                yield Outcome(scan, status, target(scan), record=record)
                continue
            refusal = _refusal(scan, result)
            if refusal is None:
                raise result
            yield Outcome(scan, "refused", target(scan), error=refusal)


def _read(maker: _Maker, scan: Scan, target: Path, *, overwrite: bool) -> _Ready | PredictionRecord:
    """Read and prepare a scan, or return the record of its output where that need not be made again."""
    if scan.problem is not None:
        raise scan.problem
    if (kept := _existing(maker, scan, target, overwrite=overwrite)) is not None:
        return kept
    image = read_image(scan.paths, assume_orientation=maker.assume_orientation, channels=scan.channels)
    prepared = maker.model.prepare(image)
    is_first = maker.model.configuration.previous_stage is None
    return _Ready(_without_voxels(image) if is_first else image, prepared)


def _without_voxels(image: Image) -> Image:
    """Return how the image's file was laid out, which its mask is written by, without what the memory is full of."""
    return replace(image, array=np.empty((len(image.array), 0, 0, 0), image.array.dtype))


def _segment(
    maker: _Maker, scan: Scan, ready: _Ready | PredictionRecord
) -> tuple[Sequence[str], Answer] | PredictionRecord:
    if isinstance(ready, PredictionRecord):
        return ready
    answer = maker.model.segment(
        ready.image,
        ready.prepared,
        previous=scan.previous,
        probabilities=maker.save_probabilities,
        show_progress=maker.show_progress,
    )
    return ready.image.sha256, answer


def _may_read_ahead(ready: _Ready | PredictionRecord, scan: Scan, following: Scan) -> bool:
    held = 0 if isinstance(ready, PredictionRecord) else ready.image.array.nbytes + ready.prepared.image.nbytes
    return has_room(following.inputs, scan.inputs, held)


def _is_memory(error: Exception) -> bool:
    return any(map(_is_out_of_memory, _chain(error)))


def _chain(error: Exception) -> list[BaseException]:
    return [error, *(other for other in (error.__cause__, error.__context__) if other is not None)]


def _refusal(scan: Scan, error: Exception) -> SiccsError | None:
    """Return why one scan is refused, or None for an error that the next scan would meet too, as a full disk."""
    if not isinstance(error, DataError | UsageError) and not _is_memory(error):
        return None
    for link in _chain(error):
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


def _write(
    maker: _Maker, scan: Scan, made: tuple[Sequence[str], Answer] | PredictionRecord, target: Path
) -> tuple[Literal["written", "kept"], PredictionRecord]:
    """Write a mask, its probabilities and its record; return whether they are new, and the record."""
    if isinstance(made, PredictionRecord):
        return "kept", made
    (digests, answer), model = made, maker.model
    segmentation = answer.segmentation
    if maker.postprocessing:
        array = postprocess(segmentation.array[0], maker.postprocessing, segmentation.grid.spacing_mm)[None]
        segmentation = replace(segmentation, array=array)
    if answer.levels is not None:
        sources = (model.sha256,)
        save_levels(target.parent, scan.name, answer.levels, LEVELS, model.labels, segmentation.orientation, sources)
    digest = segmentation.save(target)
    record = PredictionRecord(
        case=scan.name,
        input_sha256=(*digests, *map(files.file_sha256, scan.inputs[len(scan.paths) :])),
        model_sha256=model.sha256,
        output_sha256=digest,
        folds=model.folds,
        volumes_ml=segmentation.volumes_ml(),
        postprocessing=maker.postprocessing,
        spacing=segmentation.grid.spacing_mm if format_of(target) is TIFF else None,
        speed=model.speed,
        overlap=model.configuration.inference.overlap,
        mirror_axes=model.configuration.inference.mirror_axes,
        tiles=answer.tiles,
    )
    files.write_record(_record_path(target), record)
    return "written", record
