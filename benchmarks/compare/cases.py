"""Stages that take one whole CT from file to file: preprocessing and prediction. Peer: nnU-Net.

Both take the same steps, crop to nonzero and resample to 1 mm, so that both work on one grid. nnU-Net clips before it
resamples, ours when a patch is read: the bounds are the scan's own extremes, so that clipping changes nothing.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from benchmarks.compare.agreement import Agreement, ShareEqual
from benchmarks.compare.data import ONE_MM, SCAN, full_ct
from benchmarks.compare.harness import Run, Stage

if TYPE_CHECKING:
    from siccs_net.records.network import NetworkSpec
    from siccs_net.records.plan import Configuration

THREADS = 2
CASE = "scan"
DATASET = "Dataset900_Scan"
CONFIGURATION = "3d_fullres"
PATCH = (96, 96, 96)
MEAN, STD, LOWER, UPPER = -600.0, 420.0, -1024.0, 3071.0
ROUNDING_HU, RESAMPLING_HU = 0.5, 2e-3
LABELS = {"background": 0, "normal_lung": 1, "EF": 2, "GGO": 3}
WEIGHTS = "weights.pt"


def description() -> dict[str, Any]:
    """Return dataset.json, which both sides read."""
    return {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": 1, "file_ending": ".nii.gz"}


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


def our_configuration() -> Configuration:
    """Return a configuration at 1 mm with the small network, as our planner would write it but for the crop."""
    from siccs_net.records.plan import (
        ChannelNormalisation,
        Configuration,
        CropNonzero,
        InferenceSettings,
        Orient,
        Resample,
    )

    return Configuration(
        dimension=3,
        steps=(Orient(), CropNonzero(), Resample(spacing_mm=ONE_MM)),
        spacing_mm=ONE_MM,
        median_shape=(230, 257, 360),
        storage="int16",
        normalisation=(ChannelNormalisation(scheme="ct"),),
        patch_size=PATCH,
        batch_size=2,
        iterations_per_epoch=250,
        network=small_network(),
        inference=InferenceSettings(overlap=0.5, gaussian_peak="voxel", export_separate_above=3.0),
    )


def small_network() -> NetworkSpec:
    """Return the demo's network, with three convolutions fewer along z."""
    from siccs_net.records.network import NetworkSpec

    return NetworkSpec(
        architecture="convnext_unet",
        dimension=3,
        in_channels=1,
        classes=len(LABELS),
        widths=(16, 32, 64, 128),
        strides=((1, 1, 1), *((2, 2, 2),) * 3),
        kernel_sizes=((5, 5, 5),) * 4,
        blocks_encoder=(1, 1, 2, 1),
        blocks_decoder=(1, 1, 1, 1),
        stem_stride=(2, 2, 2),
        deep_supervision=True,
        mlp_ratio=2,
        initialisation="fan_in",
    )


def their_plans() -> dict[str, Any]:
    """Return plans.json of nnU-Net with the same spacing, patch and normalisation; its network is given by hand."""
    resampling = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "compare",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(PATCH),
        "median_image_size_in_voxels": [230, 257, 360],
        "spacing": list(ONE_MM),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**resampling, "order": 3},
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": {"network_class_name": "given by hand", "arch_kwargs": {}, "_kw_requires_import": []},
        "batch_dice": False,
    }
    intensities = {"mean": MEAN, "std": STD, "percentile_00_5": LOWER, "percentile_99_5": UPPER}
    return {
        "dataset_name": DATASET,
        "plans_name": "compare",
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "configurations": {CONFIGURATION: configuration},
    }


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
    _set_up_peer(folder)
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


def _set_up_peer(folder: Path) -> None:
    """What nnU-Net reads from the environment when it is imported: folders, and threads for two cores."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[name] = str(folder / name)
    os.environ["nnUNet_def_n_proc"] = str(THREADS)  # noqa: SIM112 (its name)


def prepared_agree(ours: Path, peer: Path) -> Agreement:
    """Compare the stored cases in HU: ours as normalised when it is read."""
    import blosc2

    from siccs_net.io.store import PreparedStore
    from siccs_net.preprocessing.statistics import apply_normalisation

    store = PreparedStore(ours, 3)
    image = apply_normalisation(np.asarray(store.image(CASE)[:]), _normalisation())
    theirs, label = (blosc2.open(str(peer / f"{CASE}{end}.b2nd"))[:] for end in ("", "_seg"))
    if image.shape != theirs.shape:
        return Agreement(f"shapes {image.shape} and {theirs.shape} differ", False)
    largest = float(np.abs(image - theirs).max() * STD)
    same = ShareEqual(0.999)(np.asarray(store.label(CASE)[:]), np.maximum(label[0], 0))
    text = f"max difference {largest:.3f} HU (ours is stored as whole HU); labels: {same.text}"
    return Agreement(text, largest <= ROUNDING_HU + RESAMPLING_HU and same.holds)


def _normalisation() -> Any:
    from siccs_net.records.statistics import ChannelScaling, Normalisation

    return Normalisation(channels=(ChannelScaling(scheme="ct", lower=LOWER, upper=UPPER, mean=MEAN, std=STD),))


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


def our_model(folder: Path) -> Any:
    """Return the model of two folds in float32, as load_model makes it."""
    import torch

    from siccs_net.inference.ensemble import Member
    from siccs_net.inference.predictor import Model
    from siccs_net.networks.numerics import choose_numerics
    from siccs_net.records.dataset import DatasetDescription

    device = torch.device("cpu")
    members = [
        Member(str(fold), network, _normalisation(), f"weights {fold}") for fold, network in enumerate(_folds(folder))
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
    _set_up_peer(folder)
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    networks = _plainly(_folds(folder)) if plain else _folds(folder)
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
        with contextlib.redirect_stdout(io.StringIO()):
            predictor.predict_from_files_sequential([[str(SCAN)]], [str(output / CASE)])
        return output / f"{CASE}.nii.gz"

    return run


def _plainly(networks: list[Any]) -> list[Any]:
    """Return the networks in plain modules, and keep contiguous memory for good: this process has no other network."""
    from benchmarks.train_step import make_plain
    from siccs_net.networks import convnext_unet

    convnext_unet.in_fast_memory = lambda x: x
    return [make_plain(network) for network in networks]


def masks_agree(ours: Path, peer: Path) -> Agreement:
    """Compare the two mask files voxel by voxel."""
    own, theirs = (np.asarray(nib.load(path).dataobj) for path in (ours, peer))
    found = ShareEqual(0.9999)(own, theirs)
    shares = np.bincount(own.ravel().astype(int), minlength=len(LABELS)) / own.size
    several = bool((shares > 0.001).all())
    listed = "/".join(f"{100 * share:.1f}" for share in shares)
    return Agreement(f"{found.text}; classes {listed} %", found.holds and several)


def share_weights(folder: Path) -> None:
    """Write the weights of two folds: drawn, but for the last layer, which is fitted to classes drawn by density.

    The fit is by least squares on one patch of the scan: without it the largest of four random logits would be noise,
    and any two programs would disagree in many ties.
    """
    import torch

    from benchmarks.resample import draw_labels
    from siccs_net.preprocessing.resample import resample_image, resampled_shape
    from siccs_net.preprocessing.resample_labels import resample_labels

    torch.set_num_threads(THREADS)
    image, spacing = full_ct()
    shape = resampled_shape(image.shape, spacing, ONE_MM)
    patch = tuple(slice((size - edge) // 2, (size + edge) // 2) for size, edge in zip(shape, PATCH, strict=True))
    patch = (patch[0], patch[1], slice(60, 60 + PATCH[2]))  # one lung, its wall and the mediastinum
    shown = (resample_image(image, shape, order=3)[patch] - MEAN) / STD
    labels = resample_labels(draw_labels(image), shape)[patch]
    folds = []
    for seed in range(2):
        network = draw_network(seed)
        fit_head(network, torch.from_numpy(np.ascontiguousarray(shown, np.float32)), torch.from_numpy(labels))
        folds.append(network.state_dict())
    torch.save(folds, folder / WEIGHTS)


def draw_network(seed: int) -> Any:
    """Return the small network with random weights that do not lose the density on the way.

    The stem's convolution takes means of 3×3×3 voxels with a bias, without which its norm would keep no more than
    their sign; the last upsampling gives the same features to all voxels that it makes of one.
    """
    import torch

    from siccs_net.networks.build import build_network

    torch.manual_seed(seed)
    network = build_network(small_network()).eval()
    with torch.no_grad():
        stem = network.stem[0]
        means = 2 * torch.randn(len(stem.bias), 1, 1, 1, 1) / 27
        stem.weight.zero_()
        stem.weight[..., 2:5, 2:5, 2:5] = means
        stem.bias.normal_()
        up = network.head.up.weight
        up.copy_(up[:, :, :1, :1, :1].expand_as(up))
    return network


def fit_head(network: Any, image: Any, labels: Any) -> None:
    """Set a network's last convolution so that its logits [classes, z, y, x] are near ±1 for these labels [z, y, x]."""
    import torch

    conv = network.head.conv
    seen: list[Any] = []
    hook = conv.register_forward_pre_hook(lambda module, given: seen.append(given[0][0]))
    with torch.inference_mode():
        network(image[None, None])
    hook.remove()
    gram, moment = 0.0, 0.0
    for z in range(1, len(labels) - 1):  # plane by plane: a row a voxel has hundreds of numbers
        windows = seen[0][:, z - 1 : z + 2].unfold(2, 3, 1).unfold(3, 3, 1)  # [channel, z, y, x, 3, 3]
        rows = windows.permute(2, 3, 0, 1, 4, 5).flatten(0, 1).flatten(1).double()
        rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
        wanted = torch.nn.functional.one_hot(labels[z, 1:-1, 1:-1].flatten().long(), conv.out_channels)
        gram = gram + rows.T @ rows
        moment = moment + rows.T @ (2.0 * wanted.double() - 1)
    ridge = 1e-8 * torch.trace(gram) * torch.eye(len(gram), dtype=torch.float64)
    solution = torch.linalg.solve(gram + ridge, moment).T
    with torch.no_grad():
        conv.weight.copy_(solution[:, :-1].reshape(conv.weight.shape))
        conv.bias.copy_(solution[:, -1])


_WITH_PREDICTOR = functools.partial(their_prediction, False)
_WITH_PLAIN_NETWORK = functools.partial(their_prediction, True)
STAGES = (
    Stage("preprocess", "nnU-Net", our_preprocessing, their_preprocessing, prepared_agree, share=share_dataset),
    Stage("predict", "nnU-Net", our_prediction, _WITH_PREDICTOR, masks_agree, share=share_weights),
    Stage(
        "predict_plain", "nnU-Net, plain network", our_prediction, _WITH_PLAIN_NETWORK, masks_agree, share=share_weights
    ),
)
