"""The stage `preprocess`: one whole CT from files to the stored case. Peer: nnU-Net's preprocessor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.compare.agreement import Agreement, ShareEqual
from benchmarks.compare.data import SCAN, full_ct
from benchmarks.compare.harness import Run, Stage
from benchmarks.compare.plans import (
    CASE,
    CONFIGURATION,
    DATASET,
    STD,
    description,
    our_configuration,
    our_normalisation,
    set_up_peer,
    their_plans,
)

ROUNDING_HU, RESAMPLING_HU = 0.5, 2e-3


def share_dataset(folder: Path) -> None:
    """Write a dataset of the one scan and a drawn label map."""
    from benchmarks.resample import draw_labels

    raw = folder / "raw" / DATASET
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    shutil.copy(SCAN, raw / "imagesTr" / f"{CASE}_0000.nii.gz")
    labels = nib.Nifti1Image(draw_labels(full_ct()[0]).T, nib.load(SCAN).affine)
    nib.save(labels, raw / "labelsTr" / f"{CASE}.nii.gz")
    (raw / "dataset.json").write_text(json.dumps(description()))


def our_preprocessing(folder: Path) -> Run:
    from siccs_net.io.dataset import open_dataset
    from siccs_net.pipeline.preprocess import preprocess
    from siccs_net.records.plan import Plan
    from siccs_net.workspace import Workspace

    workspace, dataset = Workspace.resolve(folder / "ours"), open_dataset(folder / "raw" / DATASET)
    plan = Plan(
        name="compare",
        dataset_name=DATASET,
        planner="convnext",
        trainer="SiccsTrainer",
        folds=1,
        configurations={CONFIGURATION: our_configuration()},
    )
    stored = workspace.prepared_dataset(DATASET).prepared(plan.name, CONFIGURATION)

    def run() -> Path:
        shutil.rmtree(stored, ignore_errors=True)  # else the case would be kept
        preprocess(dataset, plan, CONFIGURATION, workspace=workspace)
        return stored

    return run


def their_preprocessing(folder: Path) -> Run:
    set_up_peer(folder)
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    raw, stored = folder / "raw" / DATASET, folder / "peer"
    plans = PlansManager(their_plans())
    configuration = plans.get_configuration(CONFIGURATION)
    images, label = [str(raw / "imagesTr" / f"{CASE}_0000.nii.gz")], str(raw / "labelsTr" / f"{CASE}.nii.gz")

    def run() -> Path:
        shutil.rmtree(stored, ignore_errors=True)
        stored.mkdir()
        preprocessor = DefaultPreprocessor(verbose=False)
        preprocessor.run_case_save(str(stored / CASE), images, label, plans, configuration, description())
        return stored

    return run


def prepared_agree(ours: Path, peer: Path) -> Agreement:
    """Compare the stored cases in HU: ours as normalised when it is read."""
    import blosc2

    from siccs_net.io.store import PreparedStore
    from siccs_net.preprocessing.statistics import apply_normalisation

    store = PreparedStore(ours, 3)
    image = apply_normalisation(np.asarray(store.image(CASE)[:]), our_normalisation())
    theirs, label = (blosc2.open(str(peer / f"{CASE}{end}.b2nd"))[:] for end in ("", "_seg"))
    if image.shape != theirs.shape:
        return Agreement(f"shapes {image.shape} and {theirs.shape} differ", False)
    largest = float(np.abs(image - theirs).max() * STD)
    same = ShareEqual(0.999)(np.asarray(store.label(CASE)[:]), np.maximum(label[0], 0))
    text = f"max difference {largest:.3f} HU (ours is stored as whole HU); labels: {same.text}"
    return Agreement(text, largest <= ROUNDING_HU + RESAMPLING_HU and same.holds)


STAGES = (Stage("preprocess", "nnU-Net", our_preprocessing, their_preprocessing, prepared_agree, share=share_dataset),)
