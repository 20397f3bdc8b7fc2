"""A model as one file: whole or refused by name, equal bytes for equal models, nothing executed, nothing elsewhere."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_files import write_foreign_model

import siccs_net as sn
from siccs_net.cli.process import run_command
from siccs_net.errors import MissingPathError, ModelError, UsageError
from siccs_net.geometry import Orientation, canonical_affine
from siccs_net.io.image import write_image
from siccs_net.io.model_file import pack, unpacked
from siccs_net.pipeline.share_model import export_model, import_model
from siccs_net.testing.tiny import make_tiny_case
from siccs_net.workspace import ModelFolder, Workspace


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model folder with two folds, and things beside them that no model file takes along."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("model")
    folder, _ = write_foreign_model(root, folds=("0", "1"))
    import_model(folder, root / "model")
    (root / "model" / "fold_0" / "log.jsonl").write_text("{}\n")
    return root / "model"


@pytest.fixture(scope="module")
def packed(model) -> Path:
    export_model(model, model.with_name("model.siccs"))
    return model.with_name("model.siccs")


def _rewrite(source: Path, target: Path, *, changed=None, added=(), left_out=(), kind=zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", kind) as new:
        for item in old.infolist():
            if item.filename not in left_out:
                new.writestr(item.filename, (changed or {}).get(item.filename, old.read(item)))
        for name, data in added:
            new.writestr(name, data)


def test_same_model_as_the_folder_and_equal_bytes(model, packed, tmp_path):
    names = zipfile.ZipFile(packed).namelist()
    assert names[0] == "manifest.json"
    assert sorted(names[1:]) == sorted(
        ["model.json", "plan.json", "dataset.json"]
        + [f"fold_{fold}/final.{kind}" for fold in (0, 1) for kind in ("json", "safetensors")]
    )
    export_model(model, tmp_path / "again.siccs")
    assert (tmp_path / "again.siccs").read_bytes() == packed.read_bytes()
    one, other = sn.load_model(model, device="cpu"), sn.load_model(packed, device="cpu")
    assert (one.sha256, one.folds, one.configuration) == (other.sha256, other.folds, other.configuration)
    weights = zip(one.members, other.members, strict=True)
    for mine, theirs in weights:
        for name, value in mine.network.state_dict().items():
            assert torch.equal(value, theirs.network.state_dict()[name])


def test_predict_takes_the_file_and_its_masks_count_as_the_folders(model, packed, tmp_path):
    image, _ = make_tiny_case(0)
    z, y, x = image.shape
    write_image(tmp_path / "in" / "a.nii.gz", image, Orientation.of((x, y, z), canonical_affine((5.0, 4.0, 4.0))))
    command = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--device", "cpu", "--quiet", "-m"]
    assert run_command("predict", [*command, str(packed)]) == 0
    made = (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns
    assert run_command("predict", [*command, str(model)]) == 0
    assert (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns == made  # kept: the same model


def test_a_subset_of_folds_and_the_way_back(model, tmp_path, capsys):
    file = tmp_path / "one.siccs"
    assert run_command("export_model", [str(model), str(file), "-f", "1", "--quiet"]) == 0
    assert run_command("export_model", [str(model), str(file), "-f", "1"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run_command("export_model", [str(model), str(file), "-f", "1", "--overwrite"]) == 0
    assert run_command("import_model", [str(file), "--workspace", str(tmp_path / "ws")]) == 0
    (folder,) = (tmp_path / "ws" / "results" / "Dataset777_Foreign").iterdir()
    assert folder.name == "nnUNetTrainer__nnUNetPlans__3d_fullres"
    assert sn.load_model(folder, device="cpu").folds == ("1",)
    assert run_command("import_model", [str(file), "--workspace", str(tmp_path / "ws")]) == 2
    assert run_command("import_model", [str(file), "--workspace", str(tmp_path / "ws"), "--overwrite"]) == 0
    assert run_command("import_model", [str(file), "-c", "2d", "-o", str(tmp_path / "m")]) == 2
    assert run_command("export_model", [str(model)]) == 2
    assert run_command("export_model", [str(model), str(tmp_path / "x.siccs"), "-f", "7"]) == 2
    assert run_command("export_model", [str(tmp_path), str(tmp_path / "x.siccs")]) == 2


def test_overwrite_replaces_a_model_and_nothing_else(packed, tmp_path):
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="something else"):
        import_model(packed, tmp_path / "papers", overwrite=True)
    assert (tmp_path / "papers" / "thesis.txt").read_text() == "years of work"


def _loaded_or_refused(file: Path) -> str:
    """The hash of the model in a file, or that it is refused by an error that names the file."""
    try:
        return sn.load_model(file, device="cpu").sha256
    except ModelError as error:
        return "refused" if str(file) in str(error) else str(error)


def test_every_changed_byte_is_found(packed, tmp_path):
    """One byte of each member's content, of the manifest, and of the zip's own structures."""
    content = packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        places = [item.header_offset + 30 + len(item.filename) + item.file_size // 2 for item in archive.infolist()]
    rng = np.random.default_rng(0)
    directory = content.rindex(b"PK\x05\x06")
    places += [*rng.integers(0, len(content), 20).tolist(), directory + 10, directory + 16]
    bad = tmp_path / "bad.siccs"
    whole = _loaded_or_refused(packed)
    for place in places:
        bad.write_bytes(content[:place] + bytes([content[place] ^ 0x5A]) + content[place + 1 :])
        found = _loaded_or_refused(bad)
        assert found in (whole, "refused"), place  # whole: a byte that says nothing, as the time of a member


def test_truncated_files_are_refused(packed, tmp_path):
    content = packed.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.siccs").write_bytes(content[:size])
        with pytest.raises(ModelError, match=r"cut\.siccs"):
            sn.load_model(tmp_path / "cut.siccs", device="cpu")
        with pytest.raises(ModelError, match=r"cut\.siccs"):
            import_model(tmp_path / "cut.siccs", tmp_path / "m")
    with pytest.raises(MissingPathError):
        sn.load_model(tmp_path / "nowhere.siccs")


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/evil",
        "fold_0/../../evil",
        "fold_0/code.py",
        "fold_x/final.json",
        "a\\b",
        "model.json/x",
        "FOLD_0/final.json",
    ],
)
def test_foreign_names_are_refused(packed, tmp_path, name):
    bad = tmp_path / "deep" / "bad.siccs"
    bad.parent.mkdir()
    _rewrite(packed, bad, added=[(name, "{}")])
    with pytest.raises(ModelError, match="no part of a model"):
        sn.load_model(bad)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["bad.siccs"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_are_exactly_those_of_the_manifest(packed, tmp_path):
    bad = tmp_path / "bad.siccs"
    record = zipfile.ZipFile(packed).read("fold_0/final.json")
    cases = {
        "twice": {"added": [("model.json", "{}")]},
        "more": {"added": [("fold_9/final.json", record)]},
        "fewer": {"left_out": ["fold_1/final.safetensors"]},
    }
    for options in cases.values():
        _rewrite(packed, bad, **options)
        with pytest.raises(ModelError, match="not those of its manifest"):
            sn.load_model(bad)
    _rewrite(packed, bad, kind=zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match="compressed"):
        sn.load_model(bad)
    _rewrite(packed, bad, left_out=["manifest.json"])
    with pytest.raises(ModelError, match="manifest"):
        sn.load_model(bad)
    _rewrite(packed, bad, changed={"manifest.json": "{}"})
    with pytest.raises(ModelError, match="schema"):
        sn.load_model(bad)


def test_forged_hashes_do_not_make_a_model(packed, tmp_path):
    """Weights and manifest changed together are still not the weights of the fold's record."""
    bad = tmp_path / "bad.siccs"
    with zipfile.ZipFile(packed) as archive:
        weights = bytearray(archive.read("fold_0/final.safetensors"))
        weights[-1] ^= 1
        manifest = json.loads(archive.read("manifest.json"))
    for member in manifest["members"]:
        if member["name"] == "fold_0/final.safetensors":
            member["sha256"] = hashlib.sha256(weights).hexdigest()
    _rewrite(packed, bad, changed={"fold_0/final.safetensors": bytes(weights), "manifest.json": json.dumps(manifest)})
    with pytest.raises(ModelError, match="damaged"):
        sn.load_model(bad, device="cpu")


def test_a_huge_size_is_refused_before_it_is_read(packed, tmp_path):
    content = bytearray(packed.read_bytes())
    place = content.index(b"PK\x01\x02")  # the manifest's entry of the directory: compressed and full size
    content[place + 20 : place + 28] = struct.pack("<II", 0xF0000000, 0xF0000000)
    (tmp_path / "huge.siccs").write_bytes(content)
    with pytest.raises(ModelError, match="too large"):
        sn.load_model(tmp_path / "huge.siccs")


def test_a_damaged_fold_is_not_exported(model, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    weights = copy / "fold_1" / "final.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="damaged"):
        pack(ModelFolder(copy), tmp_path / "x.siccs")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]
    pack(ModelFolder(copy), tmp_path / "x.siccs", folds=[0])
    with unpacked(tmp_path / "x.siccs") as folder:
        inside = folder.root
        assert folder.folds() == ["0"]
    assert not inside.exists()
    import_model(tmp_path / "x.siccs", workspace=Workspace.resolve(tmp_path / "ws"))
