"""Post-processing is kept only where out-of-fold masks say that it helps and harms no class."""

from __future__ import annotations

import numpy as np
import pytest

from siccs_net.evaluation.summary import measure_case, summarise
from siccs_net.geometry import Orientation, canonical_affine
from siccs_net.io.image import write_label
from siccs_net.pipeline.judge_postprocessing import MaskPair, candidates, helps, judge
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.postprocessing import MinimumVolume, RestrictToLung

LABELS = LabelScheme(plain={"background": 0, "normal_lung": 1, "EF": 2}, groups={"lung": (1, 2)})


def case(tmp_path, name, prediction, reference):
    z, y, x = reference.shape
    place = Orientation.of((x, y, z), canonical_affine((2.0, 1.0, 1.0)))
    for kind, labels in (("p", prediction), ("r", reference)):
        write_label(tmp_path / f"{name}_{kind}.nii.gz", labels, place)
    return MaskPair(name, tmp_path / f"{name}_p.nii.gz", tmp_path / f"{name}_r.nii.gz")


def reference():
    labels = np.zeros((10, 40, 40), np.uint8)
    labels[2:8, 5:20, 5:20] = 1
    labels[3:6, 8:12, 8:12] = 2
    return labels


def off_lung():
    labels = reference()
    labels[3:6, 36:39, 36:39] = 2
    return labels


def test_off_lung_islands_are_kept_out_and_figures_are_those_before_and_after(tmp_path):
    pairs = [case(tmp_path, "a", off_lung(), reference()), case(tmp_path, "b", reference(), reference())]
    decided = judge(pairs, LABELS, candidates(LABELS), weights_sha256=["w"], workers=0)
    assert [type(step) for step in decided.steps] == [RestrictToLung]
    first = decided.judged[0]
    dice = 2 * 48 / (48 + 48 + 27)
    assert first.dice_before["2"] == pytest.approx((dice + 1) / 2)
    assert first.dice_after["2"] == 1
    assert first.foreground_before == pytest.approx((1 + (dice + 1) / 2) / 2)
    assert first.foreground_after == 1
    assert not any(judgement.kept for judgement in decided.judged[1:])
    assert (decided.cases, decided.weights_sha256) == (2, ("w",))


def test_a_step_that_harms_one_class_is_left_out_though_the_mean_rises(tmp_path):
    """Small EF is false in one case and true in the other; removing it lowers EF."""
    wanted = reference()
    wanted[7, 18, 18] = 2
    found = wanted.copy()
    found[6, 6, 6] = 1
    pairs = [case(tmp_path, "a", found, wanted)]
    decided = judge(pairs, LABELS, [[MinimumVolume(label=2, minimum_mm3=10.0)]], workers=0)
    assert decided.steps == ()
    assert decided.judged[0].dice_after["2"] < decided.judged[0].dice_before["2"]


def test_of_alternatives_the_best_is_kept(tmp_path):
    found = reference()
    for place in ((2, 16, 16), (7, 6, 18)):
        found[place] = 2  # 2 mm³ each
    found[5:8, 14:17, 6:9] = 2  # 54 mm³
    pairs = [case(tmp_path, "a", found, reference())]
    tries = [[MinimumVolume(label=2, minimum_mm3=size) for size in (3.0, 60.0, 1000.0)]]
    decided = judge(pairs, LABELS, tries, workers=0)
    assert [step.minimum_mm3 for step in decided.steps] == [60.0]
    assert [judgement.kept for judgement in decided.judged] == [False, True, False]


def test_perfect_masks_need_nothing_and_empty_ones_are_no_trouble(tmp_path):
    empty = np.zeros((4, 6, 6), np.uint8)
    for masks in ((reference(), reference()), (empty, empty)):
        assert judge([case(tmp_path, "a", *masks)], LABELS, candidates(LABELS), workers=0).steps == ()


def test_helping_needs_a_gain_and_no_loss():
    def figures(*maps):
        names = dict(LABELS.plain)
        found = [
            measure_case(p, r, (1, 1, 1), names, {}, case=str(n), prediction_file="", reference_file="", surface=False)
            for n, (p, r) in enumerate(maps)
        ]
        return summarise(found, None)

    right, wrong = (reference(), reference()), (off_lung(), reference())
    assert helps(figures(wrong), figures(right))
    assert not helps(figures(right), figures(right))
    assert not helps(figures(right), figures(wrong))


def test_the_candidates_never_keep_the_largest_component_only():
    for labels in (
        LABELS,
        LabelScheme(plain={"background": 0, "infection": 1}),
        LabelScheme(plain={"background": 0, "lung": 3}),
    ):
        kinds = {step.step for alternatives in candidates(labels) for step in alternatives}
        assert kinds <= {"restrict_to_lung", "minimum_volume", "fill_holes"}
    only_lesions = candidates(LabelScheme(plain={"background": 0, "infection": 1}))
    assert "restrict_to_lung" not in {step.step for alternatives in only_lesions for step in alternatives}
    apart = candidates(LabelScheme(plain={"background": 0, "lung": 1, "infection": 2}))[0][0]
    assert (apart.lung, apart.labels) == ((1,), (1, 2))
    regions = {"lung": (1, 2), "lesion": (2,)}
    within = candidates(LabelScheme(plain={"background": 0}, regions=regions, regions_class_order=(1, 2)))[0][0]
    assert (within.lung, within.labels) == ((1, 2), (1, 2))
