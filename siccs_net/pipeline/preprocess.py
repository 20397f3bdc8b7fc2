"""Preprocess: every case of a dataset into the store of one configuration; cases already there are kept."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from tqdm import tqdm

from siccs_net.errors import RecordError, StoreError, UsageError
from siccs_net.io import files
from siccs_net.io.dataset import Case, Dataset, require_whole
from siccs_net.io.formats import image_sha256
from siccs_net.io.image import read_case
from siccs_net.io.memory import workers_that_fit
from siccs_net.io.store import PreparedStore
from siccs_net.parallel import run_all
from siccs_net.preprocessing.preprocess import peak_bytes, preprocess_case, recipe_sha256
from siccs_net.records.fingerprint import Fingerprint
from siccs_net.records.plan import Configuration, Plan
from siccs_net.workspace import DatasetFolder, Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What a preprocessing run did: cases made now and cases found whole."""

    made: tuple[str, ...]
    kept: tuple[str, ...]


def configuration_of(plan: Plan, name: str) -> Configuration:
    """Return a plan's configuration by name. Raises UsageError that lists those there are."""
    if name not in plan.configurations:
        raise UsageError(f"plan {plan.name!r} has no configuration {name!r}", found=", ".join(plan.configurations))
    return plan.configurations[name]


def preprocess(
    dataset: Dataset,
    plan: Plan,
    configuration: str,
    *,
    workspace: Workspace | None = None,
    workers: int | None = None,
    show_progress: bool = False,
) -> Prepared:
    """Preprocess every case of a dataset; a case whose files, recipe and arrays are unchanged is kept.

    Raises the reader's error for the first case that cannot be read; cases done before it stay.
    """
    require_whole(dataset)
    settings = configuration_of(plan, configuration)
    place = (workspace or Workspace.resolve()).prepared_dataset(dataset.name)
    folder = place.prepared(plan.name, plan.prepared_name(configuration))
    store = PreparedStore(folder, settings.dimension)
    recipe = recipe_sha256(settings, dataset.labels)
    at_a_time = _workers_that_fit(dataset, settings, place, workers)
    with files.exclusive(folder, "preprocessing"):
        jobs = run_all(
            lambda case: _prepare(case, dataset, settings, store, recipe), dataset.cases.values(), workers=at_a_time
        )
        bar = tqdm(
            jobs,
            desc=f"preprocessing {configuration}",
            total=len(dataset.cases),
            leave=False,
            disable=None if show_progress else True,
        )
        outcome = {case.name: made for case, made in bar}
    return Prepared(
        tuple(sorted(case for case, made in outcome.items() if made)),
        tuple(sorted(case for case, made in outcome.items() if not made)),
    )


def _workers_that_fit(
    dataset: Dataset, configuration: Configuration, place: DatasetFolder, workers: int | None
) -> int | None:
    """Return how many cases to prepare at a time; without a fingerprint, which has their shapes, as many as asked."""
    if not place.fingerprint.is_file():
        return workers
    images = [path for case in dataset.cases.values() for path in case.images]
    return workers_that_fit(workers, images, lambda: _needed_bytes(place, configuration))


def _needed_bytes(place: DatasetFolder, configuration: Configuration) -> list[int]:
    cases = files.read_record(place.fingerprint, Fingerprint).cases
    return [peak_bytes(case.shape, case.cropped_shape, case.spacing_mm, configuration) for case in cases]


def _prepare(case: Case, dataset: Dataset, configuration: Configuration, store: PreparedStore, recipe: str) -> bool:
    """Prepare one case; return False when it was there already."""
    if _is_current(case, store, recipe):
        return False
    prepared = preprocess_case(
        *read_case(case.images, case.label, channels=dataset.description.channels),
        configuration,
        dataset.labels,
        case=case.name,
    )
    store.save(prepared)
    return True


def _is_current(case: Case, store: PreparedStore, recipe: str) -> bool:
    if not store.record_path(case.name).is_file():
        return False
    try:
        record = store.verify(case.name, recipe)
    except (StoreError, RecordError) as error:
        logger.warning("preparing %s anew: %s", case.name, error)
        return False
    paths = [*case.images, *([case.label] if case.label else [])]
    return record.input_sha256 == tuple(map(image_sha256, paths))
