"""Make nnunet_numerics.json: what nnunetv2 2.8.1 itself computes for seeded inputs. Run once, in an environment of its
own, beside this repository:

    pip install -c constraints.txt nnunetv2==2.8.1
    python tests/golden/make_nnunet_numerics.py

The inputs are drawn by `nnunet_numerics_inputs.py`, which the tests draw them by too; only seeds and results are
written. Arrays of numbers are float32 (or labels as one byte each), compressed, in base64.
"""

from __future__ import annotations

import base64
import json
import zlib
from importlib.metadata import version
from pathlib import Path

import nnunet_numerics_inputs as inputs
import numpy as np
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
    CTNormalization,
    RescaleTo01Normalization,
    ZScoreNormalization,
)
from nnunetv2.preprocessing.resampling.default_resampling import (
    compute_new_shape,
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.crossval_split import generate_crossval_split

TARGET = Path(__file__).with_name("nnunet_numerics.json")


def packed(array) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()


def make_loss(batch_dice: bool, ignore: int | None) -> DC_and_CE_loss:
    """As the trainer of 2.8.1 makes it, without compilation."""
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(dice, {}, 1, 1, ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss)


def losses() -> list[dict]:
    found = []
    for case in inputs.LOSSES:
        logits, labels = inputs.logits_and_labels(case)
        leaf = torch.from_numpy(logits).requires_grad_()
        loss = make_loss(case["batch_dice"], inputs.IGNORED if case["ignored"] else None)
        value = loss(leaf, torch.from_numpy(labels)[:, None])
        value.backward()
        found.append({"loss": float(value.detach()), "gradient": packed(leaf.grad.numpy())})
    return found


def deep_supervision() -> dict:
    outputs, labels = inputs.deep_outputs()
    scales = [[1 / stride for stride in strides] for strides in inputs.DEEP_STRIDES]
    downsample = DownsampleSegForDSTransform(scales)
    each = [downsample._apply_to_segmentation(torch.from_numpy(one)[None]) for one in labels]
    targets = [torch.stack([one[level] for one in each]) for level in range(len(scales))]
    weights = np.array([1 / (2**level) for level in range(len(scales))])
    weights[-1] = 0
    weights = weights / weights.sum()
    loss = DeepSupervisionWrapper(make_loss(False, None), weights)
    value = loss([torch.from_numpy(output) for output in outputs], targets)
    return {"weights": weights.tolist(), "loss": float(value), "targets": [packed(t.numpy()) for t in targets]}


def schedule() -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=inputs.RATE)
    scheduler = PolyLRScheduler(optimizer, inputs.RATE, inputs.EPOCHS)
    rates = []
    for epoch in range(inputs.EPOCHS):
        scheduler.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    return [rates[epoch] for epoch in inputs.RATE_EPOCHS]


def gaussians() -> list[str]:
    cpu = torch.device("cpu")
    return [
        packed(compute_gaussian(tile, 1 / 8, 10, torch.float32, cpu).numpy().astype(np.float32))
        for tile in inputs.TILES
    ]


def steps() -> list[list[list[int]]]:
    return [compute_steps_for_sliding_window(image, tile, step) for image, tile, step in inputs.tilings()]


def normalisation() -> dict:
    image, properties = inputs.hounsfield_image(), inputs.CT_PROPERTIES
    schemes = {"ct": CTNormalization, "zscore_image": ZScoreNormalization, "rescale_to_0_1": RescaleTo01Normalization}
    return {
        name: packed(scheme(use_mask_for_norm=False, intensityproperties=properties).run(image.copy()))
        for name, scheme in schemes.items()
    }


def foreground_statistics() -> list[dict]:
    image, label = inputs.hounsfield_image(), inputs.foreground()
    sampled, exact = DatasetFingerprintExtractor.collect_foreground_intensities(
        label[None], image[None], num_samples=inputs.SAMPLES
    )
    values = np.asarray(sampled[0])
    low, high = np.percentile(values, (0.5, 99.5))
    drawn = {"mean": values.mean(), "std": values.std(), "percentile_00_5": low, "percentile_99_5": high}
    return [{key: float(value) for key, value in each.items()} for each in (drawn, exact[0])]


def resampled() -> list[dict]:
    found = []
    for case in inputs.RESAMPLINGS:
        image, label, before, after = inputs.volume_and_labels(case)
        shape = compute_new_shape(image.shape, before, after)
        separate, axis = determine_do_sep_z_and_axis(None, before, after)
        common = {"current_spacing": before, "new_spacing": after, "order_z": 0, "force_separate_z": None}
        volume = resample_data_or_seg_to_shape(image[None], shape, order=3, is_seg=False, **common)[0]
        segmentation = resample_data_or_seg_to_shape(label[None], shape, order=1, is_seg=True, **common)[0]
        found.append(
            {
                "shape": shape.tolist(),
                "axis": int(axis) if separate else None,
                "image": packed(volume.astype(np.float32)[inputs.SOME]),
                "label": packed(segmentation.astype(np.uint8)),
            }
        )
    return found


def normalised_then_resampled() -> str:
    image, _, before, after = inputs.volume_and_labels(inputs.RESAMPLINGS[0])
    normal = CTNormalization(use_mask_for_norm=False, intensityproperties=inputs.CT_PROPERTIES).run(image.copy())
    shape = compute_new_shape(image.shape, before, after)
    common = {"current_spacing": before, "new_spacing": after, "order_z": 0, "force_separate_z": None}
    return packed(resample_data_or_seg_to_shape(normal[None], shape, order=3, **common)[0][inputs.SOME])


def splits() -> list[list[list[str]]]:
    return [
        [list(map(str, fold["val"])) for fold in generate_crossval_split(list(np.sort(inputs.case_names(number))))]
        for number in inputs.SPLIT_SIZES
    ]


def initial_patches() -> list[list[int]]:
    thirty = (-30 / 360 * 2 * np.pi, 30 / 360 * 2 * np.pi)
    return [get_patch_size(patch, thirty, thirty, thirty, (0.85, 1.25)).tolist() for patch in inputs.PATCHES]


def main() -> None:
    torch.set_num_threads(1)
    body = {
        "nnunetv2": version("nnunetv2"),
        "losses": losses(),
        "deep_supervision": deep_supervision(),
        "schedule": schedule(),
        "gaussians": gaussians(),
        "steps": steps(),
        "normalisation": normalisation(),
        "foreground_statistics": foreground_statistics(),
        "resampled": resampled(),
        "normalised_then_resampled": normalised_then_resampled(),
        "splits": splits(),
        "initial_patches": initial_patches(),
    }
    TARGET.write_text(json.dumps(body, separators=(",", ":")) + "\n")
    print(TARGET, TARGET.stat().st_size)


if __name__ == "__main__":
    main()
