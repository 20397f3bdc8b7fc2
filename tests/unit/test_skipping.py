"""Skipping: inside the box as without it, to the bit; background outside; and where it is undone."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from siccs_net.errors import UsageError
from siccs_net.inference.ensemble import Member
from siccs_net.inference.predictor import Model
from siccs_net.inference.skipping import (
    ForegroundAtFaceError,
    box_window,
    lung_window,
    prepared_lung_box,
    prepared_spacing_mm,
    with_background,
)
from siccs_net.inference.sliding_window import plan_tiles, sliding_window
from siccs_net.inference.tiles import run_tiles, tile_grid, tiles_together
from siccs_net.io.dataset import open_dataset
from siccs_net.io.image import Image
from siccs_net.pipeline.plan import plan
from siccs_net.preprocessing.lung_box import lung_box
from siccs_net.records.checkpoint import Numerics
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.statistics import ChannelScaling, Normalisation
from siccs_net.testing.tiny import make_tiny_case, write_tiny_dataset
from siccs_net.workspace import Workspace

SPACING = (10.0, 8.0, 8.0)
CLASSES = LabelScheme(plain={"background": 0, "lung": 1, "EF": 2, "GGO": 3})
REGIONS = LabelScheme(plain={"background": 0}, regions={"all": (1, 2), "lesion": (2,)}, regions_class_order=(1, 2))


class _Lungs(nn.Module):
    """Lung tissue by its HU, more surely so towards the end of a tile; `also` HU counts as lung tissue too."""

    def __init__(self, *, regions=False, also=None):
        super().__init__()
        self.regions, self.also = regions, also

    def forward(self, x):
        tissue = 1 - ((x + 515) / 400).abs()
        if self.also is not None:
            tissue = torch.maximum(tissue, 1 - ((x - self.also) / 5).abs())
        logits = tissue * torch.linspace(1, 2, x.shape[-1]) * torch.linspace(2, 1, x.shape[-3])[:, None, None]
        foreground = [logits, logits - 0.5]
        return torch.cat(foreground if self.regions else [-logits, *foreground, logits - 0.25], dim=1)


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    workspace = Workspace.resolve(tmp_path_factory.mktemp("workspace"))
    raw = write_tiny_dataset(workspace.raw[0] / "Dataset999_Tiny", cases=2, spacing_mm=SPACING)
    settings = {"patch_size": [16, 16, 16], "inference.overlap": 0.5}
    made = plan(open_dataset(raw), preset="demo", folds=2, workspace=workspace, settings=settings)
    assert made.configurations["3d_fullres"].inference.skip_outside == "lung"
    return made.configurations["3d_fullres"]


def _model(configuration, *, regions=False, also=None):
    numerics = Numerics(device="cpu", precision="float32", threads=1, deterministic=True)
    scaling = Normalisation(channels=(ChannelScaling(scheme="none"),))
    members = tuple(Member(fold, _Lungs(regions=regions, also=also), scaling) for fold in "01")
    labels = REGIONS if regions else CLASSES
    return Model("x", configuration, labels, members, torch.device("cpu"), numerics, "0" * 64)


def _image(change=None):
    """A tiny case whose body fills the image, with much of it beside the lungs."""
    image, _ = make_tiny_case(1)
    image = np.pad(np.where(image < -900, np.int16(40), image), ((0, 0), (12, 12), (12, 12)), constant_values=40)
    if change is not None:
        image = change(image)
    return Image.from_array(image, spacing_mm=SPACING)


def _inside(window, array):
    return array[(..., *(slice(start, end) for start, end in window.box))]


@given(
    st.tuples(*[st.integers(3, 17)] * 3),
    st.tuples(*[st.integers(2, 8)] * 3),
    st.sampled_from([0.0, 0.3, 0.5, 0.75]),
    st.data(),
)
def test_any_box_is_filled_as_without_skipping_to_the_bit(shape, patch, overlap, data):
    box = tuple(sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in shape)
    box = tuple((start, end) if start < end else (max(start - 1, 0), max(start, 1)) for start, end in box)
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    axes = plan_tiles(shape, patch, overlap, 0.125)

    def forward(tiles, padding):
        padded = np.pad(tiles, [(0, 0), (0, 0), *padding])
        ramp = np.linspace(0, 1, padded.shape[-1], dtype=np.float32)
        return torch.from_numpy(np.concatenate([padded + 50, padded * ramp], axis=1))

    def run(image, axes):
        return sliding_window(image, axes, forward, 2, flat=False, device=torch.device("cpu"))

    window = box_window(axes, box)
    part = image[(slice(None), *(slice(*span) for span in window.hull))]
    slabs = list(with_background(run(part, window.axes), window, 2, regions=False))
    assert [start for start, _ in slabs] == [0, *itertools.accumulate(slab.shape[1] for _, slab in slabs)][:-1]
    found = np.concatenate([slab for _, slab in slabs], axis=1)
    wanted = np.concatenate([slab for _, slab in run(image, axes)], axis=1)
    assert np.array_equal(_inside(window, found), _inside(window, wanted))
    outside = np.ones(shape, bool)
    outside[tuple(slice(*span) for span in box)] = False
    assert (found[0][outside] == 0).all()
    assert (found[1][outside] == -1e4).all()
    touching = [
        sum(start < span[1] and start + axis.patch > span[0] for start in axis.starts)
        for axis, span in zip(axes, box, strict=True)
    ]
    assert (window.tiles.run, window.tiles.total) == (np.prod(touching), np.prod([len(axis.starts) for axis in axes]))


@pytest.mark.parametrize("regions", [False, True])
def test_a_scan_is_segmented_as_without_skipping(configuration, regions):
    model, image = _model(configuration, regions=regions), _image()
    skipped = model.segment(image, model.prepare(image), probabilities=True)
    whole = model.with_settings(skip=False)
    full = whole.segment(image, whole.prepare(image), probabilities=True)
    assert np.array_equal(skipped.segmentation.array, full.segmentation.array)
    assert skipped.segmentation.array.max() > 0
    assert skipped.tiles.skipped == "outside the lungs"
    assert skipped.tiles.run < 0.8 * skipped.tiles.total
    assert (full.tiles.run, full.tiles.total, full.tiles.skipped) == (full.tiles.total, skipped.tiles.total, "nothing")
    box = lung_box(image.array[0], SPACING, margin_mm=0)
    window = tuple(slice(start, end) for start, end in box)
    assert np.array_equal(skipped.levels[(slice(None), *window)], full.levels[(slice(None), *window)])
    background = 0 if regions else 255
    assert (skipped.levels[0, :, 0] == background).all()
    assert (skipped.levels[1:, :, 0] == 0).all()
    assert not np.array_equal(skipped.levels, full.levels)


def test_logits_inside_the_lungs_box_are_the_same_to_the_bit(configuration):
    model, image = _model(configuration), _image()
    prepared = model.prepare(image)
    window = lung_window(prepared, tile_grid(prepared, configuration))
    ensemble = model._ensemble(prepared)
    slabs = run_tiles(prepared, window, ensemble, configuration, CLASSES, show_progress=False)
    some = np.concatenate([slab for _, slab in slabs], axis=1)
    every = np.concatenate([slab for _, slab in model.logits(prepared)], axis=1)
    assert np.array_equal(_inside(window, some), _inside(window, every))
    assert not np.array_equal(some, every)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_foreground_at_a_face_of_the_box_undoes_the_skipping(configuration, regions, axis, caplog):
    """A bar of what the model takes for lung reaches out of the lungs, which the box would cut."""

    def band(image):
        image = np.pad(image, ((8, 8), (0, 0), (0, 0)), constant_values=40)
        bar = [slice(14, 18), slice(28, 36), slice(32, 40)]
        bar[axis] = slice(2, image.shape[axis] - 2)
        image[tuple(bar)] = 100
        return image

    model, image = _model(configuration, regions=regions, also=100), _image(band)
    answer = model.segment(image, model.prepare(image))
    assert answer.tiles.skipped == "nothing: foreground at the face of the lungs' box"
    whole = model.with_settings(skip=False)
    wanted = whole.segment(image, whole.prepare(image))
    assert np.array_equal(answer.segmentation.array, wanted.segmentation.array)


def test_only_faces_inside_the_image_are_looked_at():
    axes = plan_tiles((6, 6, 6), (2, 2, 2), 0.5, 0.125)
    window = box_window(axes, ((0, 3), (2, 4), (3, 6)))
    logits = np.zeros((2, 6, 6, 6), np.float32)
    for place in itertools.product(*(range(start, end) for start, end in window.box)):
        changed = logits.copy()
        changed[(1, *place)] = 1
        hull = changed[(slice(None), *(slice(*span) for span in window.hull))]
        slabs = ((plane, hull[:, plane : plane + 1]) for plane in range(hull.shape[1]))
        with pytest.raises(ForegroundAtFaceError):  # y is two thin: every voxel of the box lies on a face
            list(with_background(slabs, window, 2, regions=False))
    window = box_window(axes, ((0, 3), (0, 6), (3, 6)))
    logits[1, 0, 0, 5] = logits[1, 1, 3, 4] = 1
    hull = logits[(slice(None), *(slice(*span) for span in window.hull))]
    found = np.concatenate([slab for _, slab in with_background(iter([(0, hull)]), window, 2, regions=False)], axis=1)
    assert found[1, 0, 0, 5] == found[1, 1, 3, 4] == 1


def test_without_a_pair_of_lungs_nothing_is_skipped_and_the_answer_says_so(configuration):
    model = _model(configuration)
    image = _image(lambda image: np.where(np.arange(72) < 36, np.maximum(image, 0), image).astype(np.int16))
    answer = model.segment(image, model.prepare(image))
    assert answer.tiles.skipped == "nothing: no lungs found"
    assert answer.tiles.run == answer.tiles.total


def test_where_hardly_a_tile_lies_outside_all_are_run(configuration):
    wide = configuration.model_copy(update={"patch_size": (32, 96, 96)})
    model, image = _model(wide), _image()
    answer = model.segment(image, model.prepare(image))
    assert answer.tiles.skipped == "nothing: few tiles lie outside the lungs"
    assert answer.tiles.run == answer.tiles.total


def test_the_box_is_found_in_the_order_of_the_plans_axes(configuration):
    image = _image()
    straight = _model(configuration).prepare(image)
    orient = configuration.steps[0].model_copy(update={"transpose": (2, 0, 1)})
    spacing = tuple(configuration.steps[2].spacing_mm[axis] for axis in (2, 0, 1))
    steps = (orient, configuration.steps[1], configuration.steps[2].model_copy(update={"spacing_mm": spacing}))
    turned = _model(configuration.model_copy(update={"steps": steps})).prepare(image)
    assert turned.image.shape[1:] == tuple(straight.image.shape[1:][axis] for axis in (2, 0, 1))
    box = prepared_lung_box(straight)
    assert prepared_lung_box(turned) == (box[2], box[0], box[1])
    assert np.allclose(prepared_spacing_mm(straight.record.geometry), (5, 4, 4), rtol=0.02)


def test_speed_presets_and_what_overrides_them(configuration):
    model = _model(replace_mirrors(configuration))
    settings = {speed: model.with_settings(speed=speed) for speed in ("fast", "balanced", "accurate")}
    assert settings["balanced"].configuration == model.configuration
    assert [settings[speed].folds for speed in settings] == [("0",), ("0", "1"), ("0", "1")]
    assert [settings[speed].configuration.inference.overlap for speed in settings] == pytest.approx([0.25, 0.5, 2 / 3])
    assert [settings[speed].configuration.inference.mirror_axes for speed in settings] == [(), ("L-R",), ("L-R",)]
    assert len({item.sha256 for item in settings.values()}) == 3
    own = model.with_settings(speed="fast", overlap=0.1, keep_folds=True)
    assert (own.folds, own.configuration.inference.overlap, own.speed) == (("0", "1"), 0.1, "fast")
    assert model.with_settings(speed="accurate", mirror=False).configuration.inference.mirror_axes == ()
    assert model.with_settings(skip=False).configuration.inference.skip_outside is None
    with pytest.raises(UsageError, match="overlap"):
        model.with_settings(overlap=1.0)


def replace_mirrors(configuration):
    return configuration.model_copy(
        update={"inference": configuration.inference.model_copy(update={"mirror_axes": ("L-R",)})}
    )


def test_a_cpu_takes_one_tile_at_a_time(configuration):
    assert tiles_together(configuration, torch.device("cpu")) == 1
    assert replace(_model(configuration)).folds == ("0", "1")
