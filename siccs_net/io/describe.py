"""Write a dataset's dataset.json: cases counted, labels and files checked before anything is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from siccs_net.errors import DatasetError
from siccs_net.io import files
from siccs_net.io.dataset import inspect_dataset, require_whole
from siccs_net.records.dataset import DatasetDescription

Names = Mapping[int, str] | Mapping[str, str] | Sequence[str]


def write_dataset_json(
    folder: Path | str,
    channel_names: Names,
    labels: Mapping[str, int | Sequence[int]],
    file_ending: str = ".nii.gz",
    *,
    overwrite: bool = False,
    **keys: Any,
) -> Path:
    """Write dataset.json for the cases in a folder's imagesTr and labelsTr; return its path.

    `channel_names` is ["CT"] or {0: "CT"}, `labels` is {"background": 0, "fibrosis": 1} with a list of values for a
    region. `keys` are further keys, such as regions_class_order, siccs_groups, dataset, licence; one that is None
    is left out. numTraining is counted. Raises RecordError for a description that contradicts itself, DatasetError
    for a folder with missing channels or labels, no case, or a dataset.json already there (unless `overwrite`).
    """
    root = Path(folder)
    path = root / "dataset.json"
    if path.exists() and not overwrite:
        raise DatasetError("the dataset has a dataset.json", path=path, hint="Give overwrite=True to replace it")
    body = {
        "channel_names": _numbered(channel_names),
        "labels": {name: value if isinstance(value, int) else list(value) for name, value in labels.items()},
        "numTraining": 0,
        "file_ending": file_ending,
        **{key: value for key, value in keys.items() if value is not None},
    }
    found = inspect_dataset(root, DatasetDescription.from_json(json.dumps(body), path=path))
    require_whole(found)
    body["numTraining"] = len(found.cases)
    files.write_bytes(path, (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def _numbered(names: Names) -> dict[str, str]:
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    return {str(number): name for number, name in pairs}
