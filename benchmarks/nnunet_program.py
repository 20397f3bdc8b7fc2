"""What benchmarks/nnunet_parity.py asks of the real nnU-Net; run by a Python that has nnunetv2==2.8.1.

    python nnunet_program.py train DATASET CONFIGURATION PLANNER FOLD… [--tiny]    plan, edit, preprocess, train briefly
    python nnunet_program.py predict MODEL_FOLDER IN OUT [--float32] [--logits]

`--float32` replaces the accumulators and the Gaussian map, which nnU-Net keeps in half precision, by float32;
`--logits` writes the logits on each scan's own grid (CASE.npy, [classes, *stored axes]) instead of masks.
nnUNet_raw, nnUNet_preprocessed and nnUNet_results are set by the caller. Prints a JSON line with seconds and peak
memory.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

# Small enough for minutes on two cores, and a spacing that makes every scan be resampled.
EDITS = {
    "2d": {"patch_size": [64, 64], "batch_size": 4, "spacing": [2.2, 2.2], "stages": 4},
    "3d_fullres": {"patch_size": [24, 32, 32], "batch_size": 2, "spacing": [6.0, 5.0, 5.0], "stages": 3},
}
TINY = {"patch_size": [8, 16, 16], "batch_size": 2, "spacing": [6.0, 5.0, 5.0], "stages": 3}
WIDTHS, TINY_WIDTHS = (12, 24, 48, 64), (4, 6, 8)
ITERATIONS, TINY_ITERATIONS, EPOCHS = {"2d": 220, "3d_fullres": 25}, 200, 2


def main() -> int:
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train")
    training.add_argument("dataset", type=int)
    training.add_argument("configuration")
    training.add_argument("planner")
    training.add_argument("folds", nargs="+")
    training.add_argument("--tiny", action="store_true", help="a network of a few kilobytes")
    prediction = verbs.add_parser("predict")
    prediction.add_argument("model", type=Path)
    prediction.add_argument("input", type=Path)
    prediction.add_argument("output", type=Path)
    prediction.add_argument("--float32", action="store_true")
    prediction.add_argument("--logits", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    started = time.monotonic()
    if args.verb == "train":
        edits, widths = (TINY, TINY_WIDTHS) if args.tiny else (EDITS[args.configuration], WIDTHS)
        plans = prepare(args.dataset, args.configuration, args.planner, {**edits, "widths": widths})
        for fold in args.folds:
            train(plans, args.configuration, fold, TINY_ITERATIONS if args.tiny else ITERATIONS[args.configuration])
    else:
        predict(args.model, args.input, args.output, float32=args.float32, logits=args.logits)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": round(time.monotonic() - started, 2), "peak_mib": round(peak)}))
    return 0


def prepare(dataset: int, configuration: str, planner: str, edits: dict) -> Path:
    """Plan, edit the plan for a small network and patch, preprocess; return plans.json."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
    from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name

    extract_fingerprints([dataset], num_processes=2)
    name = plan_experiments([dataset], planner)
    path = Path(os.environ["nnUNet_preprocessed"], convert_id_to_dataset_name(dataset), f"{name}.json")  # noqa: SIM112
    plans = json.loads(path.read_text())
    _shrink(plans["configurations"][configuration], edits)
    path.write_text(json.dumps(plans))
    preprocess([dataset], name, (configuration,), num_processes=(2,))
    return path


def _shrink(configuration: dict, edits: dict) -> None:
    configuration.update({name: edits[name] for name in ("patch_size", "batch_size", "spacing")})
    network, stages = configuration["architecture"]["arch_kwargs"], edits["stages"]
    network["n_stages"], network["features_per_stage"] = stages, list(edits["widths"][:stages])
    for name in ("kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage"):
        if name in network:
            network[name] = network[name][:stages]
    network["n_conv_per_stage_decoder"] = network["n_conv_per_stage_decoder"][: stages - 1]


def train(plans: Path, configuration: str, fold: str, iterations: int) -> None:
    """Train a fold for a few iterations and write its checkpoint as nnU-Net does."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 (augment in this process)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (what nnU-Net draws from)
    description = json.loads((plans.parent / "dataset.json").read_text())
    which = fold if fold == "all" else int(fold)
    plan = {**json.loads(plans.read_text()), "continue_training": False}
    trainer = nnUNetTrainer(plan, configuration, which, description, torch.device("cpu"))
    trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = iterations, 2
    trainer.oversample_foreground_percent = 1.0  # so that a few iterations find some foreground
    trainer.num_epochs = EPOCHS
    trainer.run_training()


def predict(model: Path, source: Path, output: Path, *, float32: bool, logits: bool) -> None:
    """Predict a folder with every fold that the model has."""
    from nnunetv2.inference import predict_from_raw_data as program

    if float32:
        full = functools.partial(program.compute_gaussian, dtype=torch.float32)
        full.cache_clear = program.compute_gaussian.cache_clear
        program.compute_gaussian = full
        torch.half = torch.float32  # what the accumulators are made of
    predictor = program.nnUNetPredictor(device=torch.device("cpu"), verbose=False, allow_tqdm=False)
    only_all = [path.name for path in model.glob("fold_*")] == ["fold_all"]  # which it does not find by itself
    predictor.initialize_from_trained_model_folder(str(model), ("all",) if only_all else None)
    output.mkdir(parents=True, exist_ok=True)
    if not logits:
        predictor.predict_from_files_sequential(str(source), str(output))
        return
    for path in sorted(source.glob("*_0000.nii.gz")):
        name = path.name.removesuffix("_0000.nii.gz")
        np.save(output / f"{name}.npy", _native_logits(predictor, path))


def _native_logits(predictor, path: Path) -> np.ndarray:
    """The logits where nnU-Net takes the largest one: resampled to the cropped scan, then put back in place."""
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    preprocessor = configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case([str(path)], None, plans, configuration, predictor.dataset_json)
    found = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
    own = [properties["spacing"][axis] for axis in plans.transpose_forward]
    spacing = configuration.spacing if len(configuration.spacing) == 3 else [own[0], *configuration.spacing]
    shape = properties["shape_after_cropping_and_before_resampling"]
    found = np.asarray(configuration.resampling_fn_probabilities(found, shape, spacing, own)).astype(np.float32)
    whole = np.zeros((len(found), *properties["shape_before_cropping"]), dtype=np.float32)
    box = tuple(slice(*pair) for pair in properties["bbox_used_for_cropping"])
    whole[(slice(None), *box)] = found
    return whole.transpose(0, *(axis + 1 for axis in plans.transpose_backward))


if __name__ == "__main__":
    sys.exit(main())
