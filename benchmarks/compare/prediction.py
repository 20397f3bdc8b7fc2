"""The stages `predict`: one whole CT from file to mask, two folds of a small network. Peer: nnU-Net's predictor."""

from __future__ import annotations

import contextlib
import functools
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from benchmarks.compare.agreement import Agreement, ShareEqual
from benchmarks.compare.data import SCAN
from benchmarks.compare.harness import Run, Stage
from benchmarks.compare.plans import (
    CASE,
    CONFIGURATION,
    LABELS,
    THREADS,
    description,
    our_configuration,
    our_normalisation,
    set_up_peer,
    small_network,
    their_plans,
)
from benchmarks.compare.weights import WEIGHTS, share_weights

if TYPE_CHECKING:
    from siccs_net.inference.predictor import Model

SEVERAL = 3


def our_prediction(folder: Path) -> Run:
    """Prepare what siccs_predict does once its model is loaded."""
    from siccs_net.pipeline.predict import predict_scans
    from siccs_net.pipeline.scans import Scan

    model, output = our_model(folder), folder / "ours"

    def run() -> Path:
        (outcome,) = predict_scans(model, [Scan(CASE, (SCAN,))], output, overwrite=True)
        if outcome.error is not None:
            raise outcome.error
        return outcome.output

    return run


def our_model(folder: Path) -> Model:
    """Return the model of two folds in float32, as load_model makes it."""
    import torch

    from siccs_net.cli.process import share_heap
    from siccs_net.inference.ensemble import Member
    from siccs_net.inference.predictor import Model
    from siccs_net.networks.numerics import choose_numerics
    from siccs_net.records.dataset import DatasetDescription

    share_heap()  # as siccs_predict does
    device = torch.device("cpu")
    members = [
        Member(str(fold), network, our_normalisation(), f"weights {fold}")
        for fold, network in enumerate(_folds(folder))
    ]
    labels = DatasetDescription.model_validate(description()).label_scheme
    numerics = choose_numerics(device, "float32", deterministic=False)
    return Model("compare", our_configuration(), labels, tuple(members), device, numerics, "compare")


def _folds(folder: Path) -> list[Any]:
    import torch

    from siccs_net.networks.build import build_network

    torch.set_num_threads(THREADS)
    networks = []
    for weights in torch.load(folder / WEIGHTS):
        network = build_network(small_network()).eval()
        network.load_state_dict(weights)
        networks.append(network)
    return networks


def their_prediction(plain: bool, folder: Path) -> Run:
    """Prepare nnU-Net's predictor with our network; its own process pool, made for many scans, is left out."""
    set_up_peer(folder)
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from benchmarks.train_step import make_plain, memory

    networks = [make_plain(network) if plain else network for network in _folds(folder)]
    plans, output = PlansManager(their_plans()), folder / "peer"
    output.mkdir(exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(
            tile_step_size=0.5,
            use_mirroring=False,
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
    weights = [network.state_dict() for network in networks]
    predictor.manual_initialization(
        networks[0].requires_grad_(False),
        plans,
        plans.get_configuration(CONFIGURATION),
        [{name: values.clone() for name, values in fold.items()} for fold in weights],
        description(),
        "compare",
        None,
    )

    def run() -> Path:
        with contextlib.redirect_stdout(io.StringIO()), memory(channels_last=not plain):
            predictor.predict_from_files_sequential([[str(SCAN)]], [str(output / CASE)])
        return output / f"{CASE}.nii.gz"

    return run


def masks_agree(ours: Path, peer: Path) -> Agreement:
    """Compare the two mask files voxel by voxel; agreement counts only where several classes were predicted."""
    own, theirs = (np.asarray(nib.load(path).dataobj) for path in (ours, peer))
    found = ShareEqual(0.9999)(own, theirs)
    shares = np.bincount(own.ravel().astype(int), minlength=len(LABELS)) / own.size
    several = int((shares > 0.001).sum()) >= SEVERAL
    listed = "/".join(f"{100 * share:.1f}" for share in shares)
    return Agreement(f"{found.text}; classes {listed} %", found.holds and several)


_WITH_PREDICTOR = functools.partial(their_prediction, False)
_WITH_PLAIN_NETWORK = functools.partial(their_prediction, True)
STAGES = (
    Stage("predict", "nnU-Net", our_prediction, _WITH_PREDICTOR, masks_agree, share=share_weights),
    Stage(
        "predict_plain", "nnU-Net, plain network", our_prediction, _WITH_PLAIN_NETWORK, masks_agree, share=share_weights
    ),
)
