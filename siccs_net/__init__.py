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
    from siccs_net.inference.predictor import Model, load_model
    from siccs_net.io.dataset import Dataset, open_dataset
    from siccs_net.io.image import Image, Segmentation, read_image
    from siccs_net.pipeline.evaluate import evaluate
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
    "load_model": "inference.predictor",
    "Dataset": "io.dataset",
    "open_dataset": "io.dataset",
    "Image": "io.image",
    "Segmentation": "io.image",
    "read_image": "io.image",
    "evaluate": "pipeline.evaluate",
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
    "Model",
    "Plan",
    "Segmentation",
    "SiccsError",
    "SiccsTrainer",
    "Trainer",
    "Vahdani2026Trainer",
    "Workspace",
    "evaluate",
    "export_model",
    "import_model",
    "load_model",
    "open_dataset",
    "plan",
    "predict_scans",
    "preprocess",
    "read_image",
    "train",
    "validate",
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
