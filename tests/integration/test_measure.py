"""A measured training step: in a process of its own, with the plan's own settings."""

from __future__ import annotations

import pytest

from siccs_net.errors import EnvironmentProblem, UsageError
from siccs_net.io import files
from siccs_net.pipeline.measure import measure_plan
from siccs_net.pipeline.plan import plan
from siccs_net.records.plan import Plan


def planned(ready, **settings):
    return plan(
        ready.dataset,
        preset="demo",
        settings={"network.widths": [8, 12, 16, 24], "batch_size": 2, **settings},
        folds=4,
        workspace=ready.workspace,
        save=False,
    )


def test_a_step_is_measured_with_the_plans_settings(ready, tmp_path):
    small = planned(ready, patch_size=[16, 32, 48])
    large = planned(ready, patch_size=[32, 96, 96], **{"training.gradient_accumulation": 2})
    few, many = (measure_plan(made, ready.dataset.labels, device="cpu") for made in (small, large))
    step, more = few.measured["3d_fullres"], many.measured["3d_fullres"]
    assert (step.device, step.batch_size, step.gradient_accumulation) == ("cpu", 2, 1)
    assert more.gradient_accumulation == 2
    assert 0 < step.seconds < more.seconds
    voxels = 32 * 96 * 96
    assert more.peak_bytes > voxels * 4 * 4  # the logits of one part, at the least
    files.write_record(tmp_path / "plan.json", few)
    assert files.read_record(tmp_path / "plan.json", Plan) == few


def test_what_cannot_be_measured_is_one_error(ready):
    with pytest.raises(UsageError, match="not a siccs_net trainer"):
        measure_plan(planned(ready, trainer="collections:Counter"), ready.dataset.labels, device="cpu")
    with pytest.raises(EnvironmentProblem, match="no cuda device"):
        measure_plan(planned(ready), ready.dataset.labels, device="cuda")
