"""nnU-Net models become model folders: same weights, same computation; what is not the same is refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from nnunet_files import DESCRIPTION, plans_of, spec_of, write_foreign_model

from siccs_net.errors import (
    DataError,
    MissingPathError,
    ModelError,
    RecordError,
    UnavailableError,
    UsageError,
)
from siccs_net.geometry import Orientation, canonical_affine
from siccs_net.inference.load_model import load_model
from siccs_net.interop.nnunet_checkpoint import StoredTensor, read_checkpoint
from siccs_net.interop.nnunet_import import import_nnunet
from siccs_net.io.image import Image, write_image
from siccs_net.pipeline.share_model import import_model
from siccs_net.preprocessing.nnunet_steps import to_order
from siccs_net.preprocessing.preprocess import preprocess_case
from siccs_net.testing.tiny import make_tiny_case
from siccs_net.workspace import Workspace


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("kind", ["plain_unet", "resenc_unet"])
def test_weights_and_settings_arrive(tmp_path, kind, dimension):
    folder, networks = write_foreign_model(tmp_path, kind, dimension, folds=("0", "3", "all"))
    (made,) = import_nnunet(folder, workspace=Workspace.resolve(tmp_path / "ws"))
    configuration = "2d" if dimension == 2 else "3d_fullres"
    assert made == tmp_path / "ws/results/Dataset777_Foreign" / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    model = load_model(made, folds=[0, 3, "full"], device="cpu")
    image = torch.randn(1, 1, *((16, 16) if dimension == 2 else (8, 16, 16)))
    with torch.no_grad():
        for member, network in zip(model.members, networks, strict=True):
            assert torch.equal(member.network(image), network(image))
    settings = model.configuration.inference
    assert settings.mirror_axes == tuple(range(dimension))
    assert (settings.gaussian_peak, settings.export_separate_above, settings.overlap) == ("voxel", 3.0, 0.5)
    steps = [step.step for step in model.configuration.steps]
    assert steps == ["as_stored", "crop_nonzero", "normalise", "resample"]
    assert load_model(made, device="cpu").folds == ("0", "3")  # `full` was trained on every case: not of the ensemble


def test_predict_a_scan_in_any_voxel_order(tmp_path):
    """An imported model sees voxels as they are stored, and its mask lies on the file's own grid."""
    folder, _ = write_foreign_model(tmp_path)
    (made,) = import_nnunet(folder, tmp_path / "model")
    model = load_model(made, device="cpu")
    image, _ = make_tiny_case(0)
    masks = []
    for name, affine in (("las", np.diag([-4.0, 4.0, 5.0, 1.0])), ("lps", canonical_affine((5.0, 4.0, 4.0)))):
        z, y, x = image.shape
        orientation = Orientation.of((x, y, z), affine)
        stored = image.transpose(2, 1, 0)
        write_image(tmp_path / f"{name}.nii.gz", orientation.to_canonical(stored), orientation)
        found = model.predict(tmp_path / f"{name}.nii.gz")
        masks.append(found.orientation.to_native(found.array[0]))
    assert masks[0].any()
    assert np.array_equal(*masks)


def test_exported_zip_with_two_configurations(tmp_path):
    write_foreign_model(tmp_path / "results", dimension=3)
    write_foreign_model(tmp_path / "results", dimension=2)
    with zipfile.ZipFile(tmp_path / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((tmp_path / "results").rglob("*.*")):
            archive.write(path, path.relative_to(tmp_path / "results"))
    workspace = Workspace.resolve(tmp_path / "ws")
    made = import_model(tmp_path / "export.zip", workspace=workspace)
    assert [folder.name for folder in made] == [
        "nnUNetTrainer__nnUNetPlans__2d",
        "nnUNetTrainer__nnUNetPlans__3d_fullres",
    ]
    with pytest.raises(UsageError, match="one model"):
        import_model(tmp_path / "export.zip", tmp_path / "m", workspace=workspace)
    (one,) = import_model(tmp_path / "export.zip", tmp_path / "m", configuration="2d", workspace=workspace)
    assert load_model(one, device="cpu").configuration.dimension == 2
    for source in (tmp_path / "export.zip", tmp_path / "results/Dataset777_Foreign/nnUNetTrainer__nnUNetPlans__2d"):
        with pytest.raises(UsageError, match="no configuration '3d_lowres'"):
            import_model(source, configuration="3d_lowres", workspace=workspace)
    with pytest.raises(UsageError, match="model already"):
        import_model(tmp_path / "export.zip", workspace=workspace)
    import_model(tmp_path / "export.zip", overwrite=True, workspace=workspace)


@pytest.mark.parametrize("name", ["../plans.json", "/etc/plans.json", "a/../../dataset.json", "C:/x/plans.json"])
def test_zip_cannot_write_elsewhere(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("a/plans.json", "{}")
        archive.writestr(name, "{}")
    with pytest.raises(ModelError, match="leads elsewhere"):
        import_model(tmp_path / "bad.zip", workspace=Workspace.resolve(tmp_path / "ws"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.zip"]


class _Shell:
    def __reduce__(self):
        return os.system, ("touch EXECUTED",)


class _Loads:
    def __reduce__(self):
        return pickle.loads, (pickle.dumps(_Shell()),)


class _Builtin:
    def __reduce__(self):
        return eval, ("open('EXECUTED', 'w')",)


class _Attribute:
    """Sets an attribute on what a name stands for."""

    def __reduce__(self):
        return OrderedNothing, (), (None, {"__call__": 1})


def OrderedNothing():
    return None


@pytest.mark.parametrize("payload", [_Shell(), _Loads(), _Builtin(), _Attribute(), print, torch.nn.Linear(2, 2)])
def test_dangerous_pickle_is_refused_and_runs_nothing(tmp_path, monkeypatch, payload):
    monkeypatch.chdir(tmp_path)
    folder, _ = write_foreign_model(tmp_path, checkpoint={"optimizer_state": payload})
    with pytest.raises(ModelError, match="asks for more than tensors"):
        import_nnunet(folder, tmp_path / "model")
    assert not (tmp_path / "EXECUTED").exists()
    assert not (tmp_path / "model").exists()


_TENSOR = (
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    b"X\x03\x00\x00\x00cpuK\x01tQK\x00K\x01\x85K\x01\x85\x89}tR."
)
"""Makes a tensor of one number."""


def _with_pickle(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02]q\x00.",
        b"garbage",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x01\x00\x00\x00a\x4b\x01s\x86b.",  # state onto a function
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",  # an instance by NEWOBJ
        b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.",  # objects in numpy
        b"\x80\x02X\x01\x00\x00\x00aQ.",  # a storage that is none
        _TENSOR[:-1] + b"}X\x07\x00\x00\x00archiveX\x01\x00\x00\x00asb.",  # a tensor led to another file
        _TENSOR.replace(b"tQ", b"tQ}X\x06\x00\x00\x00memberX\x01\x00\x00\x00asb"),  # a storage led elsewhere
    ],
)
def test_damaged_or_odd_pickle_is_a_named_error(tmp_path, content):
    _with_pickle(tmp_path / "c.pth", content)
    with pytest.raises(ModelError, match=r"c\.pth"):
        read_checkpoint(tmp_path / "c.pth")


def test_the_tensor_that_the_odd_pickles_change(tmp_path):
    _with_pickle(tmp_path / "c.pth", b"\x80\x02}X\x01\x00\x00\x00a" + _TENSOR[2:-1] + b"s.")
    assert read_checkpoint(tmp_path / "c.pth")["a"].shape == (1,)


def test_truncated_checkpoint_is_a_named_error(tmp_path):
    folder, _ = write_foreign_model(tmp_path)
    path = folder / "fold_0" / "checkpoint_final.pth"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="checkpoint_final"):
        import_nnunet(folder, tmp_path / "model")


def test_reader_gives_what_torch_gives(tmp_path):
    base = torch.arange(24, dtype=torch.float32)
    saved = {
        "view": base.view(2, 3, 4).transpose(0, 2),
        "part": base[5:9],
        "half": base.half(),
        "bfloat": base.bfloat16(),
        "whole": torch.arange(5),
        "flag": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base[:3]),
        "numbers": [np.float32(1.5), np.float64(2.5), np.int64(3), np.bool_(True)],
        "device": torch.device("cuda:1"),
        "shape": torch.Size([1, 2]),
    }
    torch.save(saved, tmp_path / "c.pth")
    found = read_checkpoint(tmp_path / "c.pth")
    for name, value in saved.items():
        if isinstance(value, torch.Tensor):
            assert isinstance(found[name], StoredTensor)
            assert np.array_equal(found[name].read(), value.detach().float().numpy()), name
    assert found["numbers"] == [1.5, 2.5, 3, True]
    assert (found["device"], found["shape"]) == ("cuda:1", (1, 2))


def test_tensor_beyond_its_storage_is_refused(tmp_path):
    torch.save({"a": torch.arange(4.0)}, tmp_path / "c.pth")
    tensor = read_checkpoint(tmp_path / "c.pth")["a"]
    for shape, strides, offset in (
        ((5,), (1,), 0),
        ((4,), (1,), 1),
        ((2, 2), (4, 1), 0),
        ((2,), (-1,), 1),
        ((2,), (1,), -1),
    ):
        with pytest.raises(ModelError, match="beyond its storage"):
            StoredTensor(tensor.archive, tensor.storage, offset, shape, strides).read()


@pytest.mark.parametrize(
    ("changes", "expected", "words"),
    [
        ({"previous_stage": "3d_lowres"}, UnavailableError, "cascade"),
        ({"resampling_fn_probabilities": "resample_torch_fornnunet"}, UnavailableError, "resampling_fn_probabilities"),
        ({"preprocessor_name": "MyPreprocessor"}, UnavailableError, "preprocessor"),
        ({"normalization_schemes": ["Mine"]}, UnavailableError, "normalisation"),
        ({"patch_size": [7, 16, 16]}, RecordError, "patch_size"),
        ({"architecture": {"network_class_name": "x.Primus", "arch_kwargs": {}}}, UnavailableError, "Primus"),
        ({"spacing": None}, RecordError, "plans.json"),
    ],
)
def test_what_would_differ_is_refused(tmp_path, changes, expected, words):
    folder, _ = write_foreign_model(tmp_path, **changes)
    with pytest.raises(expected, match=words):
        import_nnunet(folder, tmp_path / "model")


def test_other_refusals_name_what_is_wrong(tmp_path):
    cases = [
        ({"plans": {"image_reader_writer": "MyIO"}}, UnavailableError, "reader"),
        ({"plans": {"dataset_name": "../../x"}}, DataError, "name of a folder"),
        ({"checkpoint": {"trainer_name": "a/b"}}, DataError, "name of a folder"),
        ({"checkpoint": {"inference_allowed_mirroring_axes": (5,)}}, ModelError, "mirrors"),
        ({"checkpoint": {"network_weights": {}}}, ModelError, "do not fit"),
        ({"checkpoint": {"network_weights": {"x": torch.zeros(1)}}}, ModelError, "no network"),
        ({"checkpoint": {"network_weights": None}}, ModelError, "no network weights"),
        ({"checkpoint": {"init_args": None}}, ModelError, "configuration"),
    ]
    for number, (options, expected, words) in enumerate(cases):
        folder, _ = write_foreign_model(tmp_path / str(number), **options)
        with pytest.raises(expected, match=words):
            import_nnunet(folder, tmp_path / "model")
        assert not (tmp_path / "model").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no model that can be imported"):
        import_model(tmp_path / "empty")
    with pytest.raises(MissingPathError):
        import_model(tmp_path / "nowhere")


def test_folds_of_two_trainings_are_not_mixed(tmp_path):
    folder, _ = write_foreign_model(tmp_path, folds=("0",))
    other, _ = write_foreign_model(
        tmp_path / "other", folds=("1",), checkpoint={"inference_allowed_mirroring_axes": None}
    )
    (other / "fold_1").rename(folder / "fold_1")
    with pytest.raises(ModelError, match="another training"):
        import_nnunet(folder, tmp_path / "model")
    import_nnunet(folder, tmp_path / "model", folds=["1"])
    assert load_model(tmp_path / "model", device="cpu").configuration.inference.mirror_axes == ()
    with pytest.raises(UsageError, match="no fold 4"):
        import_nnunet(folder, tmp_path / "model2", folds=[4])


def test_best_checkpoint_is_taken_where_there_is_no_final_one(tmp_path):
    folder, _ = write_foreign_model(tmp_path)
    (folder / "fold_0" / "checkpoint_final.pth").rename(folder / "fold_0" / "checkpoint_best.pth")
    (made,) = import_nnunet(folder, tmp_path / "model")
    record = json.loads((made / "fold_0" / "final.json").read_text())
    assert record["epochs"] == 7
    source = folder / "fold_0" / "checkpoint_best.pth"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert record["config"] == {
        "program": "nnU-Net v2",
        "checkpoint": "checkpoint_best.pth",
        "checkpoint_sha256": digest,
    }


def test_inherited_configuration_and_old_plans(tmp_path):
    """A configuration that inherits, and the format before nnU-Net 2.3."""
    spec = spec_of("plain_unet", 3)
    body = plans_of(spec, "base")["configurations"]["base"]
    old = {key: value for key, value in body.items() if key != "architecture"} | {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "pool_op_kernel_sizes": [list(stride) for stride in spec.strides],
        "conv_kernel_sizes": [list(kernel) for kernel in spec.kernel_sizes],
    }
    child = {"inherits_from": "base", "batch_size": 8}
    plans = {"configurations": {"base": old, "3d_fullres": child}}
    folder, _ = write_foreign_model(tmp_path, plans=plans)
    with pytest.raises(ModelError, match="do not fit"):  # widths 4, 8, 8 of the old plan are not the network's 4, 6, 8
        import_nnunet(folder, tmp_path / "model")
    plans["configurations"]["base"] = body
    (folder / "plans.json").write_text(json.dumps({**plans_of(spec, "x"), **plans}))
    import_nnunet(folder, tmp_path / "model")
    assert load_model(tmp_path / "model", device="cpu").configuration.batch_size == 8


def test_region_labels_are_painted_in_their_order(tmp_path):
    regions = {
        "labels": {"background": 0, "lung": [1, 2, 3], "disease": [2, 3], "EF": [2]},
        "regions_class_order": [1, 3, 2],
    }
    folder, _ = write_foreign_model(tmp_path, description={**DESCRIPTION, **regions}, spacing=[5.0, 4.0, 4.0])
    import_nnunet(folder, tmp_path / "model")
    model = load_model(tmp_path / "model", device="cpu")
    stored, _ = make_tiny_case(0)
    image = Image.from_array(stored, spacing_mm=(5.0, 4.0, 4.0))
    prepared = preprocess_case(image, None, model.configuration, model.labels, case="a")
    logits = np.concatenate([slab for _, slab in model.logits(prepared)], axis=1)
    expected = np.zeros(logits.shape[1:], np.uint8)
    for region, value in enumerate((1, 3, 2)):  # as nnU-Net does: a probability above a half, one after another
        expected[1 / (1 + np.exp(-logits[region])) > 0.5] = value
    found = model.predict(image)
    assert len(np.unique(expected)) >= 3
    assert np.array_equal(to_order(found.array[0], found.orientation, "file"), expected)


def test_labels_with_gaps_are_refused(tmp_path):
    labels = {"background": 0, "a": 1, "b": 3}
    folder, _ = write_foreign_model(tmp_path, description={**DESCRIPTION, "labels": labels})
    with pytest.raises(DataError, match="without gaps"):
        import_nnunet(folder, tmp_path / "model")
