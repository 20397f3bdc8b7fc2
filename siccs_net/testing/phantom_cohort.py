"""Who the synthetic patients are: lesion burden, lung function, scanner settings. Cheap, no voxels.

Total burden T (EF + GGO, percent of lung volume) is a monotone function of a latent standard normal u. Each lung
function score is s = c·u + sqrt(1 - c²)·e with e standard normal and independent of u, so that T and s have a Gaussian
copula with correlation c. Spearman's rho of a Gaussian copula is (6/π)·asin(c/2) (Kruskal, Ordinal measures of
association, JASA 1958), which is inverted here: the population rho is known exactly, not estimated.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass

import numpy as np

from siccs_net.errors import UsageError

POPULATION_RHO_FEV1_FVC = -0.649
"""Spearman's rho between EF + GGO (% of lung) and FEV1/FVC in the phantoms' population (Table 2 of the paper)."""
POPULATION_RHO_FEV1_PP = -0.736
"""Spearman's rho between EF + GGO (% of lung) and FEV1 (% predicted) in the phantoms' population (same table)."""
POPULATION_MEAN_FEV1_FVC = 86.7
POPULATION_MEAN_FEV1_PP = 73.2
POPULATION_MEAN_EF_PERCENT = 8.0
POPULATION_MEAN_GGO_PERCENT = 11.0

# T = 70 · logistic(centre + u): bounded by 70 %. The centre makes its mean 19 % (checked in the tests).
_MAX_BURDEN_PERCENT = 70.0
_BURDEN_CENTRE = -1.1841
# Fibrosis is absent in 1 of 20 patients (early disease); else its share of T is beta distributed with mean 0.443.
_NO_FIBROSIS_PROBABILITY = 0.05
_FIBROSIS_SHARE = (4.43, 5.57)

_SD_FEV1_FVC = 4.0
_SD_FEV1_PP = 15.0
# Healthy adults of this age have FEV1/FVC near 0.80, which ties FVC (% predicted) to the other two figures.
_PREDICTED_FEV1_FVC = 80.0
_DLCO_MISSING_PROBABILITY = 0.2
_THICKNESSES_MM = (0.7, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
_THICKNESS_WEIGHTS = (0.12, 0.10, 0.18, 0.15, 0.10, 0.10, 0.08, 0.07, 0.03, 0.07)
_FIRST_DATE = datetime.date(2019, 1, 1)
_STUDY_DAYS = 5 * 365

PURPOSES = ("record", "body", "tree", "lesion", "noise")
"""What random numbers are drawn for. Each has its own stream, so that one part never shifts another's numbers."""


@dataclass(frozen=True)
class PatientRecord:
    """One patient's known truth. Burdens are percent of lung volume (labels 1 + 2 + 3), thickness in millimetres."""

    index: int
    case: str
    patient: str
    date: str
    female: bool
    ef_percent: float
    ggo_percent: float
    slice_thickness_mm: float
    kernel: str
    pft: dict[str, float | None]

    @property
    def burden_percent(self) -> float:
        """EF + GGO in percent of lung volume."""
        return self.ef_percent + self.ggo_percent


def random_stream(seed: int, index: int, purpose: str) -> np.random.Generator:
    """Return the generator of one patient for one of `PURPOSES`: a pure function of its three arguments."""
    return np.random.default_rng([seed, index, PURPOSES.index(purpose)])


def draw_cohort(count: int, *, seed: int) -> list[PatientRecord]:
    """Draw the records of patients 0 .. count - 1. Record i depends on the seed and on i only.

    Raises UsageError for a negative count or seed.
    """
    if count < 0:
        raise UsageError("a cohort cannot have fewer than 0 patients", found=count, expected="count >= 0")
    return [draw_patient(index, seed=seed) for index in range(count)]


def draw_patient(index: int, *, seed: int) -> PatientRecord:
    """Draw one patient's record. Raises UsageError for a negative index or seed."""
    if index < 0 or seed < 0:
        raise UsageError("index and seed of a phantom must not be negative", found=f"index {index}, seed {seed}")
    rng = random_stream(seed, index, "record")
    severity = float(rng.standard_normal())
    ef_percent, ggo_percent = _draw_burden(severity, rng)
    return PatientRecord(
        index=index,
        case=f"phantom_{index:03d}",
        patient=f"P{index:03d}",
        date=(_FIRST_DATE + datetime.timedelta(days=int(rng.integers(_STUDY_DAYS)))).isoformat(),
        female=bool(rng.random() < 0.9),  # the paper: 10 % men
        ef_percent=ef_percent,
        ggo_percent=ggo_percent,
        slice_thickness_mm=float(rng.choice(_THICKNESSES_MM, p=_THICKNESS_WEIGHTS)),
        kernel=str(rng.choice(("soft", "sharp"))),
        pft=_draw_pft(severity, rng),
    )


def _draw_burden(severity: float, rng: np.random.Generator) -> tuple[float, float]:
    total = _MAX_BURDEN_PERCENT / (1.0 + math.exp(-(_BURDEN_CENTRE + severity)))
    has_fibrosis = rng.random() >= _NO_FIBROSIS_PROBABILITY
    share = float(rng.beta(*_FIBROSIS_SHARE)) * has_fibrosis
    return total * share, total * (1.0 - share)


def _draw_pft(severity: float, rng: np.random.Generator) -> dict[str, float | None]:
    ratio_score = _correlated_score(severity, POPULATION_RHO_FEV1_FVC, rng)
    fev1_score = _correlated_score(severity, POPULATION_RHO_FEV1_PP, rng)
    fev1_fvc = min(POPULATION_MEAN_FEV1_FVC + _SD_FEV1_FVC * ratio_score, 99.9)
    fev1_pp = max(POPULATION_MEAN_FEV1_PP + _SD_FEV1_PP * fev1_score, 12.0)
    fvc_pp = max(fev1_pp * _PREDICTED_FEV1_FVC / fev1_fvc + 2.0 * rng.standard_normal(), 12.0)
    dlco_pp = max(58.0 - 11.0 * severity + 10.0 * rng.standard_normal(), 12.0)
    missing = rng.random() < _DLCO_MISSING_PROBABILITY
    values = {"fev1_fvc": fev1_fvc, "fev1_pp": fev1_pp, "fvc_pp": fvc_pp}
    rounded: dict[str, float | None] = {name: round(float(value), 2) for name, value in values.items()}
    return rounded | {"dlco_pp": None if missing else round(float(dlco_pp), 2)}


def _correlated_score(severity: float, rho: float, rng: np.random.Generator) -> float:
    correlation = 2.0 * math.sin(math.pi * rho / 6.0)
    noise = float(rng.standard_normal())
    return correlation * severity + math.sqrt(1.0 - correlation**2) * noise
