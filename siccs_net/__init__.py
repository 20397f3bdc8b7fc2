"""Self-configuring segmentation of chest CT: plan, preprocess, train, predict, evaluate.

    import siccs_net as sn

    dataset = sn.open_dataset("siccs_workspace/raw/Dataset501_Name")
    plan = sn.plan(dataset)
    sn.preprocess(dataset, plan, "3d_fullres")
    sn.train(dataset, plan, "3d_fullres", fold=0)
    model = sn.load_model("siccs_workspace/results/…")
    model.predict("scan.nii.gz").save("seg.nii.gz")

Names are imported when they are first used, so that importing the package needs neither torch nor time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siccs_net.errors import SiccsError
    from siccs_net.geometry import Grid
    from siccs_net.inference.load_model import load_model
    from siccs_net.inference.predictor import Model
    from siccs_net.io.dataset import Dataset, open_dataset
    from siccs_net.io.describe import write_dataset_json
    from siccs_net.io.formats import use_reader
    from siccs_net.io.image import Image, Segmentation, read_image
    from siccs_net.io.volume import ImageReader, Volume
    from siccs_net.pipeline.cross_validation import accumulate
    from siccs_net.pipeline.ensemble import ensemble_folders
    from siccs_net.pipeline.evaluate import evaluate
    from siccs_net.pipeline.find_best import find_best_configuration
    from siccs_net.pipeline.plan import plan
    from siccs_net.pipeline.predict import predict_scans
    from siccs_net.pipeline.preprocess import preprocess
    from siccs_net.pipeline.share_model import export_model, import_model
    from siccs_net.pipeline.train import train
    from siccs_net.pipeline.validate import validate
    from siccs_net.records.plan import Plan
    from siccs_net.trainers.base import Trainer
    from siccs_net.trainers.siccs import SiccsTrainer
    from siccs_net.trainers.vahdani2026 import Vahdani2026Trainer
    from siccs_net.workspace import Workspace

_HOMES = {
    "SiccsError": "errors",
    "Grid": "geometry",
    "Model": "inference.predictor",
    "load_model": "inference.load_model",
    "Dataset": "io.dataset",
    "open_dataset": "io.dataset",
    "Image": "io.image",
    "Segmentation": "io.image",
    "read_image": "io.image",
    "accumulate": "pipeline.cross_validation",
    "ensemble_folders": "pipeline.ensemble",
    "ImageReader": "io.volume",
    "Volume": "io.volume",
    "use_reader": "io.formats",
    "write_dataset_json": "io.describe",
    "evaluate": "pipeline.evaluate",
    "find_best_configuration": "pipeline.find_best",
    "plan": "pipeline.plan",
    "predict_scans": "pipeline.predict",
    "preprocess": "pipeline.preprocess",
    "train": "pipeline.train",
    "validate": "pipeline.validate",
    "export_model": "pipeline.share_model",
    "import_model": "pipeline.share_model",
    "Plan": "records.plan",
    "Trainer": "trainers.base",
    "SiccsTrainer": "trainers.siccs",
    "Vahdani2026Trainer": "trainers.vahdani2026",
    "Workspace": "workspace",
}
__all__ = [
    "Dataset",
    "Grid",
    "Image",
    "ImageReader",
    "Model",
    "Plan",
    "Segmentation",
    "SiccsError",
    "SiccsTrainer",
    "Trainer",
    "Vahdani2026Trainer",
    "Volume",
    "Workspace",
    "accumulate",
    "ensemble_folders",
    "evaluate",
    "export_model",
    "find_best_configuration",
    "import_model",
    "load_model",
    "open_dataset",
    "plan",
    "predict_scans",
    "preprocess",
    "read_image",
    "train",
    "use_reader",
    "validate",
    "write_dataset_json",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'siccs_net' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"siccs_net.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
