"""The report's figures: what is drawn where, on whatever cases; and `make_report`, which other tests draw too."""

from __future__ import annotations

import csv
import functools
import io
import math
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from scipy import stats

from siccs_net.evaluation.reporting.figures import (
    FigureSlices,
    draw_figures,
    figure_points_csv,
    page_pictures,
    save_figures,
)
from siccs_net.evaluation.reporting.palettes import MARKERS, class_colour, label_colours, marker
from siccs_net.records.dataset import LabelScheme
from siccs_net.records.report import (
    Agreement,
    AgreementRow,
    ComparisonRow,
    Correlation,
    GroupComparison,
    LungFunctionRow,
    MeanEstimate,
    PairedComparison,
    Report,
    ReportCase,
    SegmentationRow,
    SubgroupRow,
)
from siccs_net.testing.phantom_cohort import draw_cohort
from siccs_net.testing.tiny import GROUPS, LABELS, make_tiny_case

SCHEME = LabelScheme(plain=LABELS, groups={name: tuple(values) for name, values in GROUPS.items()})
LESIONS = ("EF", "GGO", "EF+GGO")
CLASSES = ("normal lung", *LESIONS, "lung")
PAPER = {
    "normal lung": (87.4, 2.3, None),
    "EF": (70.1, 4.4, 0.867),
    "GGO": (73.1, 4.3, 0.979),
    "EF+GGO": (78.2, 3.2, 0.97),
}
METRICS = {
    "fev1_fvc": ("FEV1/FVC (%)", -0.649),
    "fev1_pp": ("FEV1 (% predicted)", -0.736),
    "fvc_pp": ("FVC (% predicted)", None),
    "dlco_pp": ("DLCO (% predicted)", None),
}
Values = Sequence[float | None]


def known(*columns: Values) -> list[tuple[float, ...]]:
    return [row for row in zip(*columns, strict=True) if None not in row]  # type: ignore[misc]


def mean_of(values: Values) -> MeanEstimate:
    found = [value for value in values if value is not None]
    n = len(found)
    if n < 2:
        return MeanEstimate(n=n, mean=found[0] if found else None, standard_error=None, low=None, high=None)
    mean, error = float(np.mean(found)), float(stats.sem(found))
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return MeanEstimate(n=n, mean=mean, standard_error=error, low=mean - half, high=mean + half)


def rho_of(first: Values, second: Values) -> Correlation:
    pairs = known(first, second)
    n, missing = len(pairs), len(first) - len(pairs)
    if n < 3 or any(len(set(column)) == 1 for column in zip(*pairs, strict=True)):
        return Correlation(n=n, missing=missing, rho=None, low=None, high=None, p=None, p_method=None)
    rho, p = map(float, stats.spearmanr(*zip(*pairs, strict=True)))
    low = high = None
    if n > 3 and abs(rho) < 1:
        half = 1.96 / math.sqrt(n - 3)
        low, high = math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half)
    return Correlation(n=n, missing=missing, rho=rho, low=low, high=high, p=p, p_method="t")


def agreement_of(predicted: Values, reference: Values) -> Agreement:
    difference = [one - other for one, other in known(predicted, reference)]
    mean = mean_of(difference)
    spread = 1.96 * float(np.std(difference, ddof=1)) if len(difference) > 1 else None
    limits = (None, None) if spread is None or mean.mean is None else (mean.mean - spread, mean.mean + spread)
    bias = {"bias": mean.mean, "bias_low": mean.low, "bias_high": mean.high}
    variance = np.var(predicted, ddof=1) + np.var(reference, ddof=1) if spread else 0
    icc = float(2 * np.cov(predicted, reference)[0, 1] / variance) if variance else None
    return Agreement(
        n=mean.n, **bias, lower_limit=limits[0], upper_limit=limits[1], icc=icc, icc_low=None, icc_high=None
    )


def groups_of(first: Values, second: Values) -> GroupComparison:
    one, other = ([value for value in values if value is not None] for values in (first, second))
    medians = [float(np.median(values)) if values else None for values in (one, other)]
    found: dict[str, Any] = dict.fromkeys(("u", "p", "p_method", "effect"))
    if one and other:
        u, p = map(float, stats.mannwhitneyu(one, other, method="asymptotic"))
        found = {"u": u, "p": p, "p_method": "normal", "effect": 2 * u / (len(one) * len(other)) - 1}
    counts = {"n_first": len(one), "n_second": len(other), "median_first": medians[0], "median_second": medians[1]}
    return GroupComparison(**counts, **found, effect_low=None, effect_high=None)


def paired_of(first: Values, second: Values) -> PairedComparison:
    difference = [one - other for one, other in known(first, second)]
    mean = mean_of(difference)
    p = float(stats.wilcoxon(difference).pvalue) if any(difference) else None
    return PairedComparison(
        n=mean.n,
        mean_difference=mean.mean,
        low=mean.low,
        high=mean.high,
        median_difference=float(np.median(difference)) if difference else None,
        wilcoxon_p=p,
        permutation_p=p,
        wilcoxon_p_holm=None if p is None else min(1.0, 3 * p),
        permutation_p_holm=None if p is None else min(1.0, 3 * p),
    )


def make_cases(count: int, *, pft: bool = True, seed: int = 1) -> list[ReportCase]:
    """Cases of the phantoms' population, their predictions off by random factors; some volumes and tests missing."""
    rng = np.random.default_rng(seed)
    cases = []
    for number, record in enumerate(draw_cohort(count, seed=seed)):
        reference = {"EF": record.ef_percent, "GGO": record.ggo_percent}
        predicted = {name: value * float(rng.lognormal(0, 0.3)) for name, value in reference.items()}
        if number % 9 == 4:
            predicted["EF"] = 0.0
        lung_ml = float(rng.uniform(2500, 5000))
        for volumes in (reference, predicted):
            volumes["EF+GGO"] = volumes["EF"] + volumes["GGO"]
        dice: dict[str, float | None] = {
            name: float(100 * rng.beta(*shape))
            for name, shape in zip(CLASSES, ((40, 5), (8, 3), (10, 4), (12, 3), (90, 2)), strict=True)
        }
        if reference["EF"] == 0 and predicted["EF"] == 0:
            dice["EF"] = None
        cases.append(
            ReportCase(
                case=record.case,
                patient=record.patient,
                fold=number % 8,
                slice_thickness_mm=record.slice_thickness_mm,
                dice_percent=dice,
                predicted_ml=in_ml(predicted, lung_ml * float(rng.normal(1, 0.02))),
                reference_ml=in_ml(reference, lung_ml),
                predicted_percent=predicted,
                reference_percent=reference,
                pft=record.pft if pft else {},
            )
        )
    return cases


def in_ml(percent: dict[str, float], lung_ml: float) -> dict[str, float]:
    volumes = {name: value * lung_ml / 100 for name, value in percent.items()}
    return {**volumes, "lung": lung_ml, "normal lung": lung_ml - volumes["EF+GGO"]}


def report_of(cases: Sequence[ReportCase], **changes: Any) -> Report:
    """The report of these cases, by scipy's own statistics."""

    def dice(name: str, which: Sequence[ReportCase] = cases) -> Values:
        return [case.dice_percent[name] for case in which]

    def percent(name: str, which: str) -> Values:
        return [getattr(case, f"{which}_percent").get(name) for case in cases]

    def ml(name: str, which: str) -> Values:
        return [getattr(case, f"{which}_ml")[name] for case in cases]

    folds = sorted({case.fold for case in cases})
    thin = [case for case in cases if case.slice_thickness_mm < 1]
    thick = [case for case in cases if case.slice_thickness_mm >= 1]
    metrics = [metric for metric in METRICS if any(metric in case.pft for case in cases)]
    table1 = [
        SegmentationRow(
            name=name,
            dice_percent=mean_of(dice(name)),
            undefined_dice=list(dice(name)).count(None),
            fold_means_percent=tuple(
                mean_of(dice(name, [case for case in cases if case.fold == fold])).mean for fold in folds
            ),
            volume=rho_of(percent(name, "predicted"), percent(name, "reference")),
            **dict(
                zip(
                    ("paper_dice_percent", "paper_standard_error", "paper_rho"),
                    PAPER.get(name, (None,) * 3),
                    strict=True,
                )
            ),
        )
        for name in CLASSES
    ]
    table2 = [
        LungFunctionRow(
            metric=metric,
            title=METRICS[metric][0],
            name="EF+GGO",
            predicted=rho_of(percent("EF+GGO", "predicted"), [case.pft[metric] for case in cases]),
            reference=rho_of(percent("EF+GGO", "reference"), [case.pft[metric] for case in cases]),
            paper_rho=METRICS[metric][1],
        )
        for metric in metrics
    ]
    agreement = [
        AgreementRow(name=name, unit=unit, agreement=agreement_of(of(name, "predicted"), of(name, "reference")))
        for name in LESIONS
        for unit, of in (("mL", ml), ("% of lung", percent))
    ]
    given: dict[str, Any] = {
        "dataset": "Dataset900_Phantoms",
        "model": "Vahdani2026Trainer__vahdani2026__convnext_3d",
        "folds": len(folds),
        "cases": tuple(cases),
        "table1": tuple(table1),
        "table2": tuple(table2),
        "agreement": tuple(agreement),
        "slice_thickness_threshold_mm": 1.0,
        "subgroups": tuple(
            SubgroupRow(name=name, dice_percent=groups_of(dice(name, thin), dice(name, thick))) for name in CLASSES
        ),
        "compared_with": "SiccsTrainer__default__3d_fullres",
        "comparison": tuple(
            ComparisonRow(name=name, dice_percent=paired_of(dice(name), [other(value) for value in dice(name)]))
            for name in CLASSES
        ),
        "methods": ("Scans were segmented by a model, fold by fold.", "Means and standard errors run over scans."),
        "assumed": {"training.learning_rate": "0.001", "configurations.3d.steps.clahe": "window −1024 to 600 HU"},
        "notes": ("Partial report: 40 of 41 cases have an out-of-fold prediction so far.",),
    }
    return Report(**{**given, **changes})


def other(value: float | None) -> float | None:
    """The Dice of a case by another, worse model."""
    return None if value is None else value - 0.1 * (100 - value) - value % 3


def make_report(count: int = 40, *, pft: bool = True, **changes: Any) -> Report:
    return report_of(make_cases(count, pft=pft), **changes)


def make_slices(count: int = 2, title: str = "tiny: EF+GGO 12.3 % of lung") -> list[FigureSlices]:
    slices = []
    for seed in range(count):
        image, label = make_tiny_case(seed)
        predicted = np.roll(label[4], 1, axis=1)
        slices.append(FigureSlices(f"tiny_{seed}", title, image[4], predicted, label[4], (4.0, 4.0)))
    return slices


def offsets(axes: Any, name: str) -> np.ndarray:
    """The points of a class in a panel, as drawn, [n, xy]."""
    (found,) = (artist for artist in axes.collections if artist.get_gid() == f"points-{name}")
    return np.asarray(found.get_offsets(), float).reshape(-1, 2)


def zero_of(axes: Any) -> tuple[float, float] | None:
    """Where the ticks labelled 0 are, x and y."""
    found = []
    for axis in (axes.xaxis, axes.yaxis):
        labels = axis.get_major_formatter().format_ticks(axis.get_majorticklocs())
        found += [place for place, label in zip(axis.get_majorticklocs(), labels, strict=True) if label == "0"]
    return (found[0], found[1]) if found else None


def by_gid(axes: Any, gid: str) -> list[Any]:
    return [line for line in axes.lines if line.get_gid() == gid]


def words(axes: Any) -> str:
    legend = [] if axes.get_legend() is None else [text.get_text() for text in axes.get_legend().get_texts()]
    return "\n".join([*legend, *(text.get_text() for text in axes.texts)])


@pytest.fixture(scope="module")
def report() -> Report:
    return make_report()


@pytest.fixture(scope="module")
def figures(report: Report) -> dict[str, Any]:
    return draw_figures(report, make_slices(), SCHEME)


def test_every_figure_is_drawn(figures):
    assert list(figures) == ["figure1", "figure2", "figure3", "figure3_more", "bland_altman", "dice"]


def test_figure_1_shows_prediction_reference_and_scan(figures):
    from siccs_net.evaluation.figures import overlay

    rows = make_slices()
    panels = figures["figure1"].axes
    assert len(panels) == 3 * len(rows)
    for row, shown in zip(rows, (panels[:3], panels[3:]), strict=True):
        left, middle, right = (np.asarray(axes.images[0].get_array()) for axes in shown)
        y, x = np.nonzero((row.prediction > 0) | (row.reference > 0))
        margin = 4  # 15 mm
        box = np.s_[max(y.min() - margin, 0) : y.max() + margin + 1, max(x.min() - margin, 0) : x.max() + margin + 1]
        for found, mask in ((left, row.prediction), (middle, row.reference), (right, None)):
            np.testing.assert_array_equal(found, overlay(row.image_hu, mask, label_colours(SCHEME))[box])
        assert np.ptp(right, axis=-1).max() == 0
        assert not np.array_equal(left, middle)
    headings = [text.get_text() for text in figures["figure1"].texts]
    assert headings[:3] == ["prediction", "reference", "scan"]
    assert headings[3:] == [row.title for row in rows]
    assert [text.get_text() for text in figures["figure1"].legends[0].get_texts()] == ["normal lung", "EF", "GGO"]


def test_figure_2_has_the_identity_line_and_the_same_limits_on_both_axes(figures):
    for axes in figures["figure2"].axes:
        (line,) = by_gid(axes, "identity")
        x, y = line.get_data()
        assert list(x) == list(y)
        assert line.get_linestyle() == "--"
        assert axes.get_xlim() == axes.get_ylim()
        assert axes.get_xscale() == axes.get_yscale() == "log"
        assert min(axes.get_xlim()) <= min(x) < max(x) <= max(axes.get_xlim())


def test_zero_volumes_are_drawn_at_the_tick_of_zero(report, figures):
    axes = figures["figure2"].axes[0]
    zero = zero_of(axes)
    assert zero is not None
    assert zero[0] == zero[1]
    drawn = offsets(axes, "EF")
    predicted = np.array([case.predicted_percent["EF"] for case in report.cases])
    reference = np.array([case.reference_percent["EF"] for case in report.cases])
    assert len(drawn) == len(report.cases)
    assert 0 < (predicted == 0).sum() < len(predicted)
    np.testing.assert_array_equal(drawn[:, 1], np.where(predicted == 0, zero[1], predicted))
    np.testing.assert_array_equal(drawn[:, 0], np.where(reference == 0, zero[0], reference))
    assert axes.get_xlim()[0] < zero[0] < drawn[drawn > zero[0]].min()
    assert len(by_gid(axes, "break")) == 4
    strips = [patch.get_window_extent() for patch in axes.patches]
    spot = axes.transData.transform(zero)
    assert all(strip.contains(*spot) for strip in strips)


def test_without_zero_volumes_there_is_no_place_for_zero():
    cases = [case for case in make_cases(40) if 0 not in (case.predicted_percent["EF"], case.reference_percent["EF"])]
    for axes in draw_figures(report_of(cases), [], SCHEME)["figure2"].axes:
        assert zero_of(axes) is None
        assert by_gid(axes, "break") == []


def test_cases_that_are_zero_in_both_are_counted():
    cases = [
        case.model_copy(
            update={
                "predicted_percent": case.predicted_percent | {"EF": 0.0},
                "reference_percent": case.reference_percent | {"EF": 0.0},
            }
        )
        for case in make_cases(5)
    ]
    assert "EF ×5" in words(draw_figures(report_of(cases), [], SCHEME)["figure2"].axes[0])


def test_figure_2_writes_rho_with_its_interval(report, figures):
    left, right = (words(axes) for axes in figures["figure2"].axes)
    for row, shown in zip(report.table1[1:4], (left, left, right), strict=True):
        found = row.volume
        assert f"{row.name}: ρ {found.rho:.3f} [{found.low:.3f}, {found.high:.3f}], n {found.n}" in shown
        assert f"paper: ρ {row.paper_rho:.3f}" in shown


def test_figure_3_draws_known_pairs_the_fitted_line_and_counts_the_missing(report, figures):
    panels = [*figures["figure3"].axes, *figures["figure3_more"].axes]
    assert [axes.get_ylabel() for axes in panels] == [title for title, _ in METRICS.values()]
    for axes, row in zip(panels, report.table2, strict=True):
        pairs = known(
            [case.predicted_percent["EF+GGO"] for case in report.cases], [case.pft[row.metric] for case in report.cases]
        )
        np.testing.assert_array_equal(offsets(axes, "EF+GGO"), pairs)
        (line,) = by_gid(axes, "fit")
        slope, intercept = np.polyfit(*zip(*pairs, strict=True), 1)
        x, y = line.get_data()
        np.testing.assert_allclose(y, slope * np.asarray(x) + intercept)
        assert line.get_linestyle() == "--"
        found = row.predicted
        rho = f"ρ {found.rho:.3f} [{found.low:.3f}, {found.high:.3f}]".replace("-", "−")
        p = "<0.001" if found.p < 0.001 else f"{found.p:.3f}"
        missing = f" ({found.missing} missing)" if found.missing else ""
        assert f"{rho}\np {p} (t), n {found.n}{missing}" in words(axes)
        assert ("paper: ρ −0." in words(axes)) == (row.paper_rho is not None)
    assert report.table2[-1].predicted.missing > 0


def test_without_lung_function_there_is_no_figure_3():
    without = make_report(8, pft=False)
    assert list(draw_figures(without, [], SCHEME)) == ["figure2", "bland_altman", "dice"]
    assert list(figure_points_csv(without)) == ["figure2"]


def test_bland_altman_draws_bias_and_limits_of_the_record(report, figures):
    panels = figures["bland_altman"].axes
    rows = sorted(report.agreement, key=lambda row: row.unit != "mL")
    for axes, row in zip(panels, rows, strict=True):
        heights = {line.get_ydata()[0] for line in axes.lines}
        assert heights == {0, row.agreement.bias, row.agreement.lower_limit, row.agreement.upper_limit}
        kind = "ml" if row.unit == "mL" else "percent"
        pairs = [
            (getattr(case, f"predicted_{kind}")[row.name], getattr(case, f"reference_{kind}")[row.name])
            for case in report.cases
        ]
        expected = [((one + other) / 2, one - other) for one, other in pairs]
        np.testing.assert_allclose(offsets(axes, row.name), expected)


def test_dice_shows_every_defined_case(report, figures):
    (axes,) = figures["dice"].axes
    for row in report.table1:
        defined = [case.dice_percent[row.name] for case in report.cases if case.dice_percent[row.name] is not None]
        assert sorted(offsets(axes, row.name)[:, 1]) == sorted(defined)
    assert report.table1[1].undefined_dice > 0


@pytest.mark.parametrize("palette", ["paper", "colour_blind"])
def test_colours_and_markers_tell_the_classes_apart(report, palette):
    found = draw_figures(report, make_slices(1), SCHEME, palette=palette)
    patches = found["figure1"].legends[0].get_patches()
    assert [to_rgb(patch.get_facecolor()) for patch in patches] == [
        class_colour(name, palette) for name in ("lung", "EF", "GGO")
    ]
    left = found["figure2"].axes[0]
    drawn = {collection.get_gid(): collection for collection in left.collections}
    for name in ("EF", "GGO"):
        np.testing.assert_allclose(drawn[f"points-{name}"].get_facecolor()[0][:3], class_colour(name, palette))
    shapes = [drawn[f"points-{name}"].get_paths()[0].vertices.tolist() for name in ("EF", "GGO")]
    assert shapes[0] != shapes[1]
    assert len({marker(name) for name in MARKERS}) == len(MARKERS)


def test_the_paper_palette_is_purple_pink_and_orange():
    from colorsys import rgb_to_hsv

    hue = {name: 360 * rgb_to_hsv(*class_colour(name))[0] for name in ("lung", "EF", "GGO")}
    assert 255 < hue["lung"] < 290
    assert 315 < hue["EF"] < 350
    assert 25 < hue["GGO"] < 45


def test_colour_blind_readers_can_tell_the_classes_apart():
    """Simulated by Machado et al. 2009 (severity 1): a CIELAB distance well above what is just told apart (2.3)."""
    from skimage.color import rgb2lab

    simulated = {
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        "tritanopia": [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    }
    colours = np.array([class_colour(name, "colour_blind") for name in ("lung", "EF", "GGO")])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    for name, matrix in simulated.items():
        seen = np.clip(linear @ np.array(matrix).T, 0, 1)
        seen = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
        lab = rgb2lab(seen[None])[0]
        distances = [np.linalg.norm(lab[one] - lab[other]) for one, other in ((0, 1), (0, 2), (1, 2))]
        assert min(distances) > 30, name


def test_labels_are_coloured_by_class_not_by_value():
    scheme = LabelScheme(
        plain={"background": 0, "GGO": 1, "EF": 5, "healthy": 7, "nodule": 9}, groups={"lung": (1, 5, 7)}
    )
    colours = label_colours(scheme)
    assert [colours[value] for value in (1, 5, 7)] == [class_colour(name) for name in ("GGO", "EF", "lung")]
    assert colours[9] not in [colours[value] for value in (1, 5, 7)]
    assert label_colours(LabelScheme(plain={"background": 0, "a": 1, "b": 2, "c": 3})) == {
        1: class_colour("lung"),
        2: class_colour("EF"),
        3: class_colour("GGO"),
    }


def test_the_points_are_the_records(report):
    found = figure_points_csv(report)
    volumes = list(csv.DictReader(io.StringIO(found["figure2"])))
    assert len(volumes) == 3 * len(report.cases)
    cases = {case.case: case for case in report.cases}
    for row in volumes:
        case = cases[row["case"]]
        assert float(row["reference_percent"]) == case.reference_percent[row["class"]]
        assert float(row["predicted_percent"]) == case.predicted_percent[row["class"]]
    tests = list(csv.DictReader(io.StringIO(found["figure3"])))
    assert len(tests) == len(METRICS) * len(report.cases)
    for row in tests:
        value = cases[row["case"]].pft[row["metric"]]
        assert row["value"] == ("" if value is None else str(value))
        assert float(row["predicted_percent"]) == cases[row["case"]].predicted_percent["EF+GGO"]


def changed(cases: Sequence[ReportCase], **changes: Any) -> list[ReportCase]:
    return [case.model_copy(update=changes) for case in cases]


@functools.cache
def odd_reports() -> dict[str, Report]:
    zero = dict.fromkeys(LESIONS, 0.0)
    long = "$x$ " + "case_with_a_name_that_goes_on_" * 8 + " 例 🫁"
    several = make_cases(6)
    return {
        **{f"{count} cases": report_of(make_cases(count)) for count in (0, 1, 2)},
        "all zero": report_of(changed(several, predicted_percent=zero, reference_percent=zero)),
        "no lung predicted": report_of(changed(several, predicted_percent=dict.fromkeys(LESIONS))),
        "no Dice": report_of(changed(several, dice_percent=dict.fromkeys(CLASSES))),
        "no test known": report_of(changed(several, pft=dict.fromkeys(METRICS))),
        "one voxel": report_of([*several[1:], *changed(several[:1], predicted_percent=dict.fromkeys(LESIONS, 2e-6))]),
        "long names": report_of(changed(several, case=long, patient=long), dataset=long, model=long),
        "200 cases": report_of(make_cases(200)),
    }


@pytest.mark.parametrize("kind", list(odd_reports()))
def test_odd_reports_are_drawn_without_a_warning(kind):
    report = odd_reports()[kind]
    title = report.cases[0].case if report.cases else "no case"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = draw_figures(report, make_slices(1, title), SCHEME)
        pictures = page_pictures(figures)
    assert all(ElementTree.fromstring(data) is not None for name, data in pictures.items() if name != "figure1")


def test_panels_without_a_point_say_so():
    figures = draw_figures(odd_reports()["no test known"], [], SCHEME)
    shown = [words(axes) for axes in figures["figure3"].axes]
    assert all("no case has both values" in text and "ρ – (n 0)" in text and "(6 missing)" in text for text in shown)


def test_saved_files_are_readable_and_the_same_every_time(tmp_path, figures, report):
    import matplotlib

    before = dict(matplotlib.rcParams)
    first = save_figures({name: figures[name] for name in ("figure1", "figure3")}, tmp_path / "first", dpi=50)
    again = draw_figures(report, make_slices(), SCHEME)
    second = save_figures({name: again[name] for name in ("figure1", "figure3")}, tmp_path / "second", dpi=50)
    assert list(first) == ["figure1.png", "figure1.svg", "figure3.png", "figure3.svg"]
    for name, path in first.items():
        assert path == tmp_path / "first" / name
        assert path.read_bytes() == second[name].read_bytes()
        if name.endswith(".png"):
            with Image.open(path) as picture:
                picture.load()
                assert min(picture.size) > 100
        else:
            root = ElementTree.fromstring(path.read_bytes())
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert "date" not in path.read_text().lower()
    assert dict(matplotlib.rcParams) == before
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == sorted(first)


def test_the_page_gets_slices_as_png_and_plots_as_svg(figures):
    found = page_pictures({name: figures[name] for name in ("figure1", "figure2")})
    assert found["figure1"].startswith(b"\x89PNG")
    assert ElementTree.fromstring(found["figure2"]).tag.endswith("svg")
