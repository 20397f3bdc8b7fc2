"""The synthetic patients: known truth, anatomy, scanner, and the dataset that they are written as."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import spearmanr

from siccs_net.errors import UsageError
from siccs_net.testing.phantom import (
    POPULATION_RHO_FEV1_FVC,
    POPULATION_RHO_FEV1_PP,
    PhantomPatient,
    draw_cohort,
    make_patient,
    write_dataset,
)
from siccs_net.testing.phantom_cohort import (
    POPULATION_MEAN_EF_PERCENT,
    POPULATION_MEAN_FEV1_FVC,
    POPULATION_MEAN_FEV1_PP,
    POPULATION_MEAN_GGO_PERCENT,
    draw_patient,
)
from siccs_net.testing.phantom_grid import coverage, field_of, lattice
from siccs_net.testing.phantom_tubes import Tubes, grow_tree, polyline, tube_coverage

SIZE, THICKNESS = 96, 3.0
# Patients of seed 0 with a soft and with a sharp kernel; both have lesions of both kinds.
SOFT, SHARP = 52, 26


@pytest.fixture(scope="module")
def scan() -> Callable[..., PhantomPatient]:
    made: dict[tuple[int, float], PhantomPatient] = {}

    def make(index: int, thickness: float = THICKNESS) -> PhantomPatient:
        key = (index, thickness)
        if key not in made:
            made[key] = make_patient(index, in_plane_size=SIZE, slice_thickness_mm=thickness)
        return made[key]

    return make


@pytest.fixture(scope="module")
def cohort() -> dict[str, np.ndarray]:
    records = draw_cohort(4000, seed=3)
    columns = {name: [record.pft[name] for record in records] for name in records[0].pft}
    columns |= {"ef": [r.ef_percent for r in records], "ggo": [r.ggo_percent for r in records]}
    columns["thickness"] = [r.slice_thickness_mm for r in records]
    return {name: np.array([np.nan if v is None else v for v in column]) for name, column in columns.items()}


def noise_in_liver(patient: PhantomPatient) -> float:
    """Standard deviation of HU deep in the liver, the largest uniform organ of the lowest slices."""
    _, y, x = patient.image.shape
    block = patient.image[2:6, int(0.42 * y) : int(0.52 * y), int(0.30 * x) : int(0.42 * x)].astype(float)
    assert 40 < block.mean() < 75
    return float(np.std(block - block.mean(axis=0)) * np.sqrt(4 / 3))


# The cohort


def test_a_record_depends_on_the_seed_and_the_index_only() -> None:
    assert draw_cohort(4, seed=7) == draw_cohort(9, seed=7)[:4]
    assert draw_patient(8, seed=7) == draw_cohort(9, seed=7)[8]
    assert draw_patient(8, seed=7) != draw_patient(8, seed=6)


def test_lung_function_has_the_known_rank_correlation_with_the_burden(cohort: dict[str, np.ndarray]) -> None:
    burden = cohort["ef"] + cohort["ggo"]
    # The standard error of rho at n = 4000 is below 0.011.
    assert spearmanr(burden, cohort["fev1_fvc"]).statistic == pytest.approx(POPULATION_RHO_FEV1_FVC, abs=0.03)
    assert spearmanr(burden, cohort["fev1_pp"]).statistic == pytest.approx(POPULATION_RHO_FEV1_PP, abs=0.03)


def test_population_means_and_ranges(cohort: dict[str, np.ndarray]) -> None:
    assert cohort["ef"].mean() == pytest.approx(POPULATION_MEAN_EF_PERCENT, abs=0.5)
    assert cohort["ggo"].mean() == pytest.approx(POPULATION_MEAN_GGO_PERCENT, abs=0.6)
    assert cohort["fev1_fvc"].mean() == pytest.approx(POPULATION_MEAN_FEV1_FVC, abs=0.3)
    assert cohort["fev1_pp"].mean() == pytest.approx(POPULATION_MEAN_FEV1_PP, abs=1.0)
    burden = cohort["ef"] + cohort["ggo"]
    assert burden.min() < 2.0
    assert 55.0 < burden.max() < 70.0
    assert 60 < cohort["fev1_fvc"].min() < cohort["fev1_fvc"].max() < 100
    assert 10 < np.nanmin(cohort["fev1_pp"]) < np.nanmax(cohort["fev1_pp"]) < 150


def test_some_patients_lack_dlco_and_few_lack_fibrosis(cohort: dict[str, np.ndarray]) -> None:
    assert np.isnan(cohort["dlco_pp"]).mean() == pytest.approx(0.20, abs=0.03)
    assert (cohort["ef"] == 0).mean() == pytest.approx(0.05, abs=0.015)
    assert (cohort["ggo"] > 0).all()
    assert not np.isnan(cohort["fvc_pp"]).any()


def test_slice_thickness_spans_the_range_of_the_paper(cohort: dict[str, np.ndarray]) -> None:
    assert cohort["thickness"].min() == 0.7
    assert cohort["thickness"].max() == 5.0
    assert 0.1 < (cohort["thickness"] < 1.0).mean() < 0.4


# Voxels


def test_the_same_numbers_give_the_same_arrays_in_any_order() -> None:
    first = [make_patient(i, seed=5, in_plane_size=48, slice_thickness_mm=5) for i in (0, 1)]
    second = [make_patient(i, seed=5, in_plane_size=48, slice_thickness_mm=5) for i in (1, 0)]
    for one, other in zip(first, reversed(second), strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)
    assert not np.array_equal(first[0].label, make_patient(0, seed=6, in_plane_size=48, slice_thickness_mm=5).label)


def test_types_shapes_and_spacing(scan: Callable[..., PhantomPatient]) -> None:
    patient = scan(SOFT)
    assert patient.image.dtype == np.int16
    assert patient.label.dtype == np.uint8
    assert patient.image.shape == patient.label.shape
    assert patient.image.shape[1:] == (SIZE, SIZE)
    assert patient.spacing_mm == (THICKNESS, 360 / SIZE, 360 / SIZE)
    assert 230 < patient.image.shape[0] * THICKNESS < 320
    assert set(np.unique(patient.label)) == {0, 1, 2, 3}


def test_without_a_thickness_the_patients_own_is_used() -> None:
    record = next(r for r in draw_cohort(60, seed=0) if r.slice_thickness_mm == 5.0)
    patient = make_patient(record.index, in_plane_size=32)
    assert patient.spacing_mm[0] == 5.0
    assert (patient.case, patient.date, patient.kernel) == (record.case, record.date, record.kernel)
    assert patient.pft == record.pft


@pytest.mark.parametrize(("index", "thickness"), [(SOFT, THICKNESS), (SHARP, THICKNESS), (0, 5.0), (17, 2.0)])
def test_the_labels_hold_the_drawn_burden(scan: Callable[..., PhantomPatient], index: int, thickness: float) -> None:
    label = scan(index, thickness).label
    record = draw_patient(index, seed=0)
    lung = (label > 0).sum()
    assert 100 * (label == 2).sum() / lung == pytest.approx(record.ef_percent, abs=0.4)
    assert 100 * (label == 3).sum() / lung == pytest.approx(record.ggo_percent, abs=0.4)


@pytest.mark.parametrize("index", [SOFT, SHARP])
def test_hounsfield_units_of_every_label(scan: Callable[..., PhantomPatient], index: int) -> None:
    patient = scan(index)
    medians = [np.median(patient.image[patient.label == label]) for label in (1, 2, 3)]
    assert -900 < medians[0] < -800
    assert -500 < medians[1] < -330
    assert -660 < medians[2] < -500
    assert -480 < patient.image[patient.label == 2].mean() < -320
    assert np.median(patient.image[:, :3, :]) == pytest.approx(-1000, abs=4)
    litres = (patient.label > 0).sum() * np.prod(patient.spacing_mm) / 1e6
    assert 2.0 < litres < 7.0


def test_lungs_are_denser_at_the_back(scan: Callable[..., PhantomPatient]) -> None:
    patient = scan(SOFT)
    normal = patient.label == 1
    rows = np.broadcast_to(np.arange(SIZE)[None, :, None], normal.shape)[normal]
    front, back = np.quantile(rows, (0.25, 0.75))
    hu = patient.image[normal]
    assert 15 < np.median(hu[rows > back]) - np.median(hu[rows < front]) < 80


def test_noise_is_that_of_the_kernel(scan: Callable[..., PhantomPatient]) -> None:
    soft, sharp = noise_in_liver(scan(SOFT)), noise_in_liver(scan(SHARP))
    assert 9 < soft < sharp < 62
    assert sharp > 1.6 * soft


def test_sharp_noise_has_the_higher_frequencies(scan: Callable[..., PhantomPatient]) -> None:
    def neighbours(patient: PhantomPatient) -> float:
        air = patient.image[:, :5, :].astype(float)
        return float(np.corrcoef(air[..., 1:].ravel(), air[..., :-1].ravel())[0, 1])

    assert neighbours(scan(SOFT)) > 0.3
    assert neighbours(scan(SHARP)) < 0.0


def test_a_thick_slice_is_the_average_of_thin_ones(scan: Callable[..., PhantomPatient]) -> None:
    thin, thick = scan(SOFT, 2.5).image.astype(float), scan(SOFT, 5.0).image.astype(float)
    slices = min(len(thin) // 2, len(thick))
    pairs = thin[: 2 * slices].reshape(slices, 2, SIZE, SIZE)
    residual = pairs.mean(axis=1) - thick[:slices]
    assert np.std(residual) < 20  # the noise of both
    assert np.std(pairs[:, 0] - thick[:slices]) > 2 * np.std(residual)


# Anatomy in canonical orientation: x to the left, y to the posterior, z to the superior side


def test_heart_is_left_and_liver_right_and_below(scan: Callable[..., PhantomPatient]) -> None:
    patient = scan(SOFT)
    z, y, x = patient.image.shape
    soft_tissue = (patient.image > -20) & (patient.image < 150)
    level = int(0.42 * z)
    lung = patient.label[level] > 0
    rows = np.flatnonzero(lung.any(axis=1))
    between = soft_tissue[level, rows[0] : int(0.55 * y)] & ~lung[rows[0] : int(0.55 * y)]
    between = ndimage.binary_opening(between, iterations=3)
    labelled, count = ndimage.label(between)
    sizes = ndimage.sum(between, labelled, range(1, count + 1))
    heart = ndimage.center_of_mass(labelled == 1 + int(np.argmax(sizes)))
    assert heart[1] > x / 2 + 1
    right_half, left_half = patient.label[..., : x // 2] > 0, patient.label[..., x // 2 :] > 0
    assert lowest_slice_through(right_half) > lowest_slice_through(left_half)
    liver = patient.image[3:8, int(0.4 * y) : int(0.55 * y), int(0.3 * x) : int(0.42 * x)]
    assert np.mean((liver > -150) & (liver < 260)) == 1.0
    bubble = patient.image[3 : z // 3, int(0.2 * y) : int(0.45 * y), int(0.55 * x) : int(0.8 * x)]
    assert (bubble < -850).any()


def lowest_slice_through(half: np.ndarray) -> float:
    """Mean over the central columns of the lowest slice that is lung: the height of the dome."""
    columns = half[:, half.any(axis=(0, 2)), :][:, 15:25].any(axis=1)
    return float(np.median(np.argmax(columns, axis=0)[columns.any(axis=0)]))


def test_spine_is_behind_and_sternum_in_front_of_the_lungs(scan: Callable[..., PhantomPatient]) -> None:
    patient = scan(SOFT)
    z, _, x = patient.image.shape
    middle = patient.image[z // 3 : z // 2, :, x // 2 - 3 : x // 2 + 4] > 250
    rows = np.flatnonzero(middle.any(axis=(0, 2)))
    lung_rows = np.flatnonzero((patient.label[z // 3 : z // 2] > 0).any(axis=(0, 2)))
    assert rows[0] < lung_rows[0] + 1
    assert rows[-1] > lung_rows[-1]
    assert middle[:, SIZE // 2 :].sum() > 3 * middle[:, : SIZE // 2].sum()


def test_trachea_is_air_and_no_lung(scan: Callable[..., PhantomPatient]) -> None:
    patient = scan(SOFT)
    z, y, x = patient.image.shape
    level = int(0.85 * z)
    window = np.s_[level, int(0.4 * y) : int(0.62 * y), int(0.44 * x) : int(0.56 * x)]
    air = patient.image[window] < -900
    assert air.sum() * np.prod(patient.spacing_mm[1:]) > 80  # mm²
    assert not patient.label[window][air].any()


def test_air_of_the_stomach_and_outside_is_no_lung(scan: Callable[..., PhantomPatient]) -> None:
    label = scan(SOFT).label
    assert not label[:, :5].any()
    assert not label[:, -10:].any()
    assert not label[0].any()
    _, count = ndimage.label(ndimage.binary_opening(label > 0, iterations=1))
    assert 1 <= count <= 6


def test_lesions_are_basal_posterior_and_fibrosis_is_subpleural(scan: Callable[..., PhantomPatient]) -> None:
    label = scan(SOFT).label
    lung = np.argwhere(label > 0).mean(axis=0)
    depth = ndimage.distance_transform_edt(label > 0, sampling=scan(SOFT).spacing_mm)
    for lesion in (2, 3):
        centre = np.argwhere(label == lesion).mean(axis=0)
        assert centre[0] < lung[0] - 2
    assert np.argwhere(label > 1).mean(axis=0)[1] > lung[1]
    assert np.median(depth[label == 2]) < 0.7 * np.median(depth[label == 3])


def test_the_body_is_the_same_at_any_resolution(scan: Callable[..., PhantomPatient]) -> None:
    coarse = make_patient(SOFT, in_plane_size=SIZE // 2, slice_thickness_mm=THICKNESS).label
    fine = scan(SOFT).label
    slices = min(len(fine), len(coarse))
    blocks = (fine[:slices] > 0).reshape(slices, SIZE // 2, 2, SIZE // 2, 2).mean(axis=(2, 4)) >= 0.5
    lung = coarse[:slices] > 0
    assert 2 * (blocks & lung).sum() / (blocks.sum() + lung.sum()) > 0.96


@pytest.mark.parametrize(
    "settings",
    [
        {"index": -1},
        {"index": 0, "seed": -1},
        {"index": 0, "in_plane_size": 8},
        {"index": 0, "slice_thickness_mm": 0.0},
        {"index": 0, "field_of_view_mm": 50.0},
    ],
)
def test_settings_no_scanner_has_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        make_patient(**settings)


def test_a_negative_cohort_is_refused() -> None:
    with pytest.raises(UsageError, match="fewer than 0"):
        draw_cohort(-1, seed=0)


# Building blocks


def test_field_reproduces_linear_functions_and_clamps() -> None:
    frame = lattice((-20, -20, -20), (20, 20, 20), 4.0)
    z, y, x = frame.mesh()
    field = field_of(2 * z - y + 0.5 * x, frame)
    inner = lattice((-12, -12, -12), (12, 12, 12), 1.7)
    iz, iy, ix = inner.mesh()
    np.testing.assert_allclose(field.on(inner), 2 * iz - iy + 0.5 * ix, atol=1e-4)
    np.testing.assert_allclose(field.at(np.array([[1.0, 2.0, 3.0]], np.float32)), [1.5], atol=1e-5)
    np.testing.assert_allclose(field.at(np.array([[99.0, 0.0, 0.0]], np.float32)), [40.0], atol=1e-5)


def test_coverage_is_a_ramp_one_voxel_wide() -> None:
    np.testing.assert_allclose(
        coverage(np.array([-3.0, -0.5, 0.0, 0.5, 3.0], np.float32), 2.0), [1, 0.75, 0.5, 0.25, 0]
    )


@pytest.mark.parametrize(("radius", "tolerance"), [(8.0, 0.03), (3.0, 0.05), (0.5, 0.35)])
def test_a_tube_fills_its_volume(radius: float, tolerance: float) -> None:
    frame = lattice((0, -15, -15), (40, 15, 15), 1.5)
    tube = polyline([(-20, 0.3, 0.2), (60, 0.3, 0.2)], [radius, radius])
    volume = tube_coverage(frame, tube)[4:-4].sum() * 1.5**3
    length = 1.5 * (len(frame.z) - 8)
    assert volume == pytest.approx(np.pi * radius**2 * length, rel=tolerance)


def test_slabs_of_tubes_join_without_seams() -> None:
    frame = lattice((-20, -20, -20), (20, 20, 20), 1.5)
    rng = np.random.default_rng(0)
    points = rng.uniform(-18, 18, (60, 3)).astype(np.float32)
    tubes = Tubes(points, rng.uniform(0.3, 6.0, 60).astype(np.float32))
    pieces = [tube_coverage(frame.slices(start, start + 2), tubes) for start in range(0, len(frame.z), 2)]
    np.testing.assert_allclose(np.concatenate(pieces), tube_coverage(frame, tubes), atol=1e-4)


def test_a_tree_reaches_every_target_and_tapers() -> None:
    targets = np.random.default_rng(1).uniform(5, 60, (150, 3)).astype(np.float32)
    tree = grow_tree(np.zeros(3, np.float32), targets, tip_radius_mm=0.5)
    assert len(tree.nodes) == 151
    child = np.arange(1, 151)
    assert (tree.parent[child] < child).all()
    assert (tree.radius[tree.parent[child]] >= tree.radius[child]).all()
    assert tree.radius.min() == pytest.approx(0.5)
    tips = np.setdiff1d(child, tree.parent[child])
    assert tree.radius[0] == pytest.approx(0.5 * len(tips) ** (1 / 2.7), rel=1e-5)


# The dataset


def tiny(index: int) -> PhantomPatient:
    rng = np.random.default_rng(index)
    image = rng.integers(-1024, 3071, (5, 6, 7), dtype=np.int16)
    label = rng.integers(0, 4, (5, 6, 7), dtype=np.uint8)
    pft = {"fev1_fvc": 80.5, "fev1_pp": 70.25, "fvc_pp": 66.0, "dlco_pp": None if index == 1 else 50.0}
    return PhantomPatient(
        f"phantom_{index:03d}", f"P{index:03d}", "2020-02-03", "soft", image, label, (2.5, 0.7, 0.8), pft
    )


def test_dataset_round_trip(tmp_path: Path) -> None:
    patients = [tiny(i) for i in range(3)]
    write_dataset(tmp_path, iter(patients), test=1, name="Phantoms")
    parts = ["Tr", "Tr", "Ts"]
    for patient, part in zip(patients, parts, strict=True):
        image = nibabel.load(tmp_path / f"images{part}" / f"{patient.case}_0000.nii.gz")
        label = nibabel.load(tmp_path / f"labels{part}" / f"{patient.case}.nii.gz")
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
        np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), patient.image)
        np.testing.assert_array_equal(np.asarray(label.dataobj).transpose(2, 1, 0), patient.label)
        for file in (image, label):
            assert nibabel.aff2axcodes(file.affine) == ("L", "P", "S")
            assert file.header["sform_code"] > 0
            assert file.header["qform_code"] > 0
            np.testing.assert_allclose(file.get_qform(), file.get_sform(), atol=1e-5)
            np.testing.assert_allclose(np.diag(file.affine)[:3], (-0.8, -0.7, 2.5), atol=1e-6)
    assert len(list(tmp_path.rglob("*.nii.gz"))) == 6


def test_dataset_tables(tmp_path: Path) -> None:
    write_dataset(tmp_path, [tiny(i) for i in range(3)], test=1, name="Phantoms")
    content = json.loads((tmp_path / "dataset.json").read_text())
    assert content["numTraining"] == 2
    assert content["labels"] == {"background": 0, "normal_lung": 1, "EF": 2, "GGO": 3}
    assert content["siccs_groups"] == {"lung": [1, 2, 3], "EF": [2], "GGO": [3], "EF+GGO": [2, 3]}
    assert content["channel_names"] == {"0": "CT"}
    assert content["file_ending"] == ".nii.gz"
    with (tmp_path / "pft.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["dlco_pp"] for row in rows] == ["50.0", "", "50.0"]
    assert list(rows[0]) == ["case", "fev1_fvc", "fev1_pp", "fvc_pp", "dlco_pp"]
    expected = "case,patient,date\nphantom_000,P000,2020-02-03\n"
    assert (tmp_path / "patients.csv").read_text().startswith(expected)


@pytest.mark.parametrize(
    ("indices", "test", "message"),
    [([0, 1], -1, "negative"), ([0, 1], 2, "no patient is left"), ([0, 0], 0, "same case")],
)
def test_datasets_that_make_no_sense_are_refused(tmp_path: Path, indices: list[int], test: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_dataset(tmp_path, [tiny(i) for i in indices], test=test, name="Phantoms")
