"""Share a model: as one file of ours, from nnU-Net, or as ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from siccs_net.errors import MissingPathError, UsageError
from siccs_net.interop.nnunet_import import import_nnunet, is_nnunet
from siccs_net.io import files
from siccs_net.io.model_file import is_model_file, pack, unpacked
from siccs_net.io.model_folder import copy_model, new_model_folder
from siccs_net.records.checkpoint import ModelRecord
from siccs_net.workspace import ModelFolder, Workspace

MODEL_SUFFIX = ".siccs"
"""What a model file is usually called; any name will do."""


def export_model(
    folder: Path | str, output: Path | str, *, folds: Sequence[int | str] | None = None, overwrite: bool = False
) -> str:
    """Write a model folder's folds as one file; return its SHA-256. Equal models give equal bytes.

    Raises MissingPathError or ModelError for a folder that is no whole model, UsageError for an existing file.
    """
    target = Path(output)
    if target.exists() and not overwrite:
        raise UsageError("the file exists", path=target, hint="--overwrite replaces it")
    return pack(ModelFolder(Path(folder)), target, folds=folds)


def import_model(
    source: Path | str,
    output: Path | str | None = None,
    *,
    configuration: str | None = None,
    folds: Sequence[int | str] | None = None,
    checkpoint: str | None = None,
    overwrite: bool = False,
    workspace: Workspace | None = None,
) -> list[Path]:
    """Make model folders of a file of ours, or of an nnU-Net v2 results folder or zip; return where they are.

    They go to `output` or to the workspace's results. Raises MissingPathError, UsageError for a model that is there
    already or a source that is neither, and the errors of `unpacked` and `import_nnunet`.
    """
    path, target = Path(source), None if output is None else Path(output)
    if not path.exists():
        raise MissingPathError("the model to import does not exist", path=path)
    if path.is_file() and (is_model_file(path) or path.suffix == MODEL_SUFFIX):
        if configuration is not None or checkpoint is not None:
            raise UsageError("-c and --checkpoint are for models of nnU-Net", path=path)
        return [_import_file(path, target, folds, overwrite=overwrite, workspace=workspace)]
    if not is_nnunet(path):
        raise UsageError(
            "is no model that can be imported",
            path=path,
            expected="a file of siccs_export_model, or a results folder or exported zip of nnU-Net v2",
        )
    return import_nnunet(
        path,
        target,
        configuration=configuration,
        folds=folds,
        checkpoint=checkpoint,
        overwrite=overwrite,
        workspace=workspace,
    )


def _import_file(
    path: Path,
    output: Path | None,
    folds: Sequence[int | str] | None,
    *,
    overwrite: bool,
    workspace: Workspace | None,
) -> Path:
    with unpacked(path) as folder:
        record = files.read_record(folder.model, ModelRecord)
        place = workspace or Workspace.resolve()
        names = (record.dataset_name, record.trainer, record.plan, record.configuration)
        destination = place.model_folder(*names).root if output is None else output
        with new_model_folder(destination, overwrite=overwrite) as target:
            copy_model(folder, target, folds=folds)
    return destination


def export_onnx(
    folder: Path | str, output: Path | str, *, folds: Sequence[int | str] | None = None, overwrite: bool = False
) -> list[tuple[Path, str, float]]:
    """Write each fold's network as ONNX with a JSON beside it; return (file, SHA-256, largest difference) a fold."""
    from siccs_net.interop.onnx_export import write_onnx

    return write_onnx(Path(folder), Path(output), folds=folds, overwrite=overwrite)
