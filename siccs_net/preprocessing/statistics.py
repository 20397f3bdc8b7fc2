"""Intensity statistics of cases, their merge over a fold's training cases, and normalisation with the result."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError, DatasetError, UsageError
from siccs_net.parallel import run_parts, split
from siccs_net.records.case import PreparedRecord
from siccs_net.records.plan import ChannelNormalisation
from siccs_net.records.statistics import ChannelScaling, ChannelStatistics, Normalisation, NormalisationScheme

_CHUNK_VOXELS = 1 << 21
_LEVELS_TOGETHER = 1 << 18
"""Voxels counted at a time: as the 8 bytes that numpy counts by, they stay in the processor's cache."""
_WORTH_THREADS = 1 << 20
"""Voxels below which starting threads takes longer than counting."""
_DROPPED_BITS = 13
"""Of float32's 24 significant bits histograms keep 11 for whole numbers."""
_DROPPED_FROM_FRACTIONS = 16
"""8 are kept for others: else floating-point images would have a bin for every few voxels."""
_KEYS = 1 << (32 - _DROPPED_BITS)
_LARGEST = (2 - 2**-7) * 2.0**127
"""The largest float32 with 8 significant bits."""
_SMALLEST_STD = 1e-8
_BRIGHTEST = 255.0
"""The brightest level of an 8-bit colour: `rgb_to_0_1` divides by it, whatever a picture holds."""

Histogram = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Ascending values and the number of voxels at each."""


def measure(values: NDArray[Any], where: NDArray[np.bool_] | None = None) -> ChannelStatistics:
    """Return the statistics of one channel's intensities, an array of any shape, in one pass with little memory.

    `where`, of the same shape, says which voxels count. Integers of up to 16 bits are counted exactly, by all
    processors that are spare; others are summed in float64. Raises DataError for an array without voxels, or with
    values that are not finite real numbers.
    """
    values = np.atleast_1d(values)
    if values.size == 0 or values.dtype.kind not in "iuf" or not (where is None or where.any()):
        raise DataError(
            "statistics need at least one voxel of real numbers", found=f"shape {values.shape}, {values.dtype}"
        )
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        return _measure_levels(values, where)
    return _measure_numbers(values if where is None else values[where])


def _chunks(values: NDArray[Any], voxels: int) -> Iterator[NDArray[Any]]:
    """Yield all values as flat arrays of about so many voxels, without copying more than one of them."""
    together = max(1, voxels * len(values) // max(values.size, 1))
    for first in range(0, len(values), together):
        yield values[first : first + together].ravel(order="K")


def _measure_levels(values: NDArray[Any], where: NDArray[np.bool_] | None) -> ChannelStatistics:
    lowest = int(np.iinfo(values.dtype).min)
    counts = count_levels(values, where)
    present = np.flatnonzero(counts)
    exact, counts = (present + lowest).astype(np.float64), counts[present]
    size = int(counts.sum())
    mean = math.fsum(exact * counts) / size
    m2 = math.fsum(counts * (exact - mean) ** 2)
    rounded = _values_of(_keys(exact.astype(np.float32)))
    return _statistics((size, mean, m2), (exact[0], exact[-1]), [(rounded, counts)])


def count_levels(values: NDArray[Any], where: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Return how often each value of a type of up to 16 bits occurs in an array (where a mask says so), lowest first.

    Each processor that is spare counts a part of the first axis.
    """

    def count(part: slice) -> NDArray[np.int64]:
        return _count_part(values[part] if where is None else values[part][where[part]])

    parts = split(len(values)) if values.size >= _WORTH_THREADS else [slice(None)]
    counts: NDArray[np.int64] = np.sum(run_parts(count, parts), axis=0)
    return counts


def _count_part(values: NDArray[Any]) -> NDArray[np.int64]:
    """Count the bits as unsigned numbers; the negative values of a signed type follow the others in that order."""
    unsigned, signed = np.dtype(values.dtype.str.replace("i", "u")), values.dtype.kind == "i"
    counts = np.zeros(1 << (8 * unsigned.itemsize), dtype=np.int64)
    for chunk in _chunks(values, _LEVELS_TOGETHER):
        counts += (_count_bytes if unsigned.itemsize == 1 else _count_words)(chunk.view(unsigned))
    return np.roll(counts, len(counts) // 2) if signed else counts


def _count_words(flat: NDArray[Any]) -> NDArray[np.int64]:
    return np.bincount(flat, minlength=1 << 16)


def _count_bytes(flat: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count bytes by counting pairs of them, which takes half as long."""
    even = flat.size // 2 * 2
    pairs = _count_words(flat[:even].view(np.uint16)).reshape(256, 256)
    counts: NDArray[np.int64] = pairs.sum(axis=0) + pairs.sum(axis=1) + np.bincount(flat[even:], minlength=256)
    return counts


def _measure_numbers(values: NDArray[Any]) -> ChannelStatistics:
    moments, counts = [], np.zeros(_KEYS, dtype=np.int64)
    lowest, highest = math.inf, -math.inf
    for chunk in _chunks(values, _CHUNK_VOXELS):
        numbers = chunk.astype(np.float64)
        mean = float(numbers.mean())
        if not math.isfinite(mean):
            raise DataError("statistics need finite numbers", found="NaN or infinite voxels")
        moments.append((numbers.size, mean, float(np.square(numbers - mean).sum())))
        lowest, highest = min(lowest, float(numbers.min())), max(highest, float(numbers.max()))
        counts += np.bincount(_keys(np.clip(numbers, -_LARGEST, _LARGEST).astype(np.float32)), minlength=_KEYS)
    present = np.flatnonzero(counts)
    return _statistics(_merge_moments(moments), (lowest, highest), [(_values_of(present), counts[present])])


def _keys(numbers: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the bits of numbers rounded to 11 or 8 significant bits, shifted down to [0, 2^19)."""
    bits = numbers.view(np.uint32)
    whole = _rounded(bits, _DROPPED_BITS)
    if not (fractions := numbers != np.rint(numbers)).any():
        return whole.astype(np.intp)
    coarse = _rounded(bits, _DROPPED_FROM_FRACTIONS) << np.uint32(_DROPPED_FROM_FRACTIONS - _DROPPED_BITS)
    return np.where(fractions, coarse, whole).astype(np.intp)


def _rounded(bits: NDArray[np.uint32], dropped: int) -> NDArray[np.uint32]:
    return (bits + np.uint32(1 << (dropped - 1))) >> np.uint32(dropped)


def _values_of(keys: NDArray[np.intp]) -> NDArray[np.float64]:
    return (keys.astype(np.uint32) << np.uint32(_DROPPED_BITS)).view(np.float32).astype(np.float64)


def merge(parts: Sequence[ChannelStatistics]) -> ChannelStatistics:
    """Return the statistics of all parts' voxels together; their order changes nothing, to the last bit.

    Means and sums of squares are combined as by Chan, Golub and LeVeque, "Algorithms for computing the sample
    variance", The American Statistician 37 (1983), for any number of parts at once. Raises DataError for no parts.
    """
    if not parts:
        raise DataError("there are no statistics to merge")
    moments = [(part.count, part.mean, part.m2) for part in parts]
    limits = min(part.minimum for part in parts), max(part.maximum for part in parts)
    return _statistics(_merge_moments(moments), limits, [_histogram(part) for part in parts])


def _merge_moments(moments: Sequence[tuple[int, float, float]]) -> tuple[int, float, float]:
    total = sum(count for count, _, _ in moments)
    mean = math.fsum(count * mean for count, mean, _ in moments) / total
    between = (count * (own - mean) ** 2 for count, own, _ in moments)
    return total, mean, math.fsum([*(m2 for _, _, m2 in moments), *between])


def _histogram(statistics: ChannelStatistics) -> Histogram:
    return np.array(statistics.histogram_values), np.array(statistics.histogram_counts, dtype=np.int64)


def _statistics(
    moments: tuple[int, float, float], limits: tuple[float, float], histograms: Sequence[Histogram]
) -> ChannelStatistics:
    values, places = np.unique(np.concatenate([values for values, _ in histograms]), return_inverse=True)
    counts = np.zeros(len(values), dtype=np.int64)
    np.add.at(counts, places, np.concatenate([counts for _, counts in histograms]))
    return ChannelStatistics(
        count=moments[0],
        mean=moments[1],
        m2=moments[2],
        minimum=float(limits[0]),
        maximum=float(limits[1]),
        histogram_values=tuple((values + 0.0).tolist()),
        histogram_counts=tuple(counts.tolist()),
    )


def std(statistics: ChannelStatistics) -> float:
    """Return the standard deviation (of the population: divided by the count)."""
    return math.sqrt(statistics.m2 / statistics.count)


def percentile(statistics: ChannelStatistics, q: float) -> float:
    """Return the q-th percentile (0 to 100) as numpy's default defines it, of the histogram's values.

    It lies within one bin of the voxels' own percentile, and on it where they are whole numbers up to 2048.
    Raises UsageError for q outside 0 to 100.
    """
    if not 0 <= q <= 100:
        raise UsageError("not a percentile", found=q, expected="0 to 100")
    values, counts = _histogram(statistics)
    rank = q / 100 * (statistics.count - 1)
    lower, upper = values[np.searchsorted(np.cumsum(counts), [math.floor(rank), math.ceil(rank)], side="right")]
    inside = lower + (upper - lower) * (rank - math.floor(rank))
    return float(min(max(inside, statistics.minimum), statistics.maximum))


def fold_normalisation(
    schemes: Sequence[NormalisationScheme],
    statistics: Sequence[Sequence[ChannelStatistics]],
    *,
    lower_percentile: float = 0.5,
    upper_percentile: float = 99.5,
) -> Normalisation:
    """Return the normalisation of a fold from its training cases' statistics: one scheme a channel.

    `statistics` has one entry a case with one entry a channel; a case without voxels of interest has none. The "ct"
    scheme clips to the percentiles but takes mean and standard deviation of the values before clipping, as nnU-Net
    does. Raises UsageError for an unknown scheme, DatasetError for cases of other channels or without voxels.
    """
    cases = [case for case in statistics if case]
    if any(len(case) != len(schemes) for case in cases):
        raise DatasetError(
            "the cases' statistics are of another number of channels than the plan's normalisation",
            found=sorted({len(case) for case in cases}),
            expected=len(schemes),
        )
    return Normalisation(
        channels=tuple(
            _fold_scaling(scheme, [case[channel] for case in cases], (lower_percentile, upper_percentile))
            for channel, scheme in enumerate(schemes)
        )
    )


def _fold_scaling(
    scheme: NormalisationScheme, cases: Sequence[ChannelStatistics], percentiles: tuple[float, float]
) -> ChannelScaling:
    if scheme not in get_args(NormalisationScheme):
        raise UsageError("not a normalisation scheme", found=scheme, expected=get_args(NormalisationScheme))
    if scheme == "rgb_to_0_1":
        return ChannelScaling(scheme=scheme, lower=0.0, upper=_BRIGHTEST)
    if scheme not in ("ct", "zscore"):
        return ChannelScaling(scheme=scheme)
    if not cases:
        raise DatasetError(f"no training case has a voxel for the statistics that the scheme {scheme} needs")
    merged = merge(cases)
    lower, upper = (percentile(merged, q) for q in percentiles) if scheme == "ct" else (None, None)
    return ChannelScaling(scheme=scheme, lower=lower, upper=upper, mean=merged.mean, std=std(merged))


def image_normalisation(normalisation: Normalisation, statistics: Sequence[ChannelStatistics]) -> Normalisation:
    """Return the normalisation with one image's own numbers where its scheme takes those (one entry a channel)."""
    scalings = zip(normalisation.channels, statistics, strict=True)
    return Normalisation(channels=tuple(_image_scaling(scaling, own) for scaling, own in scalings))


def _image_scaling(scaling: ChannelScaling, own: ChannelStatistics) -> ChannelScaling:
    if scaling.scheme == "zscore_image":
        return ChannelScaling(scheme=scaling.scheme, mean=own.mean, std=std(own))
    if scaling.scheme == "rescale_to_0_1":
        return ChannelScaling(scheme=scaling.scheme, lower=own.minimum, upper=own.maximum)
    return scaling


def apply_normalisation(patch: NDArray[Any], normalisation: Normalisation) -> NDArray[np.float32]:
    """Return a patch [c, ...] of stored intensities as normalised float32; the patch itself is not changed.

    Raises DataError for another number of channels, UsageError when a scheme takes the image's own numbers and
    they were not filled in with `image_normalisation`.
    """
    if len(patch) != len(normalisation.channels):
        raise DataError(
            "the patch has another number of channels than the normalisation",
            found=len(patch),
            expected=len(normalisation.channels),
        )
    result = np.array(patch, dtype=np.float32, order="C")
    for channel, scaling in zip(result, normalisation.channels, strict=True):
        _scale(channel, scaling)
    return result


def _scale(channel: NDArray[np.float32], scaling: ChannelScaling) -> None:
    """Normalise one channel in place."""
    match scaling:
        case ChannelScaling(scheme="none"):
            return
        case ChannelScaling(scheme="ct", lower=float(lower), upper=float(upper), mean=float(mean), std=float(spread)):
            np.clip(channel, lower, upper, out=channel)
        case ChannelScaling(scheme="zscore" | "zscore_image", mean=float(mean), std=float(spread)):
            pass
        case ChannelScaling(scheme="rescale_to_0_1" | "rgb_to_0_1", lower=float(lower), upper=float(upper)):
            mean, spread = lower, upper - lower
        case _:
            raise UsageError(
                f"the scheme {scaling.scheme} needs the image's own statistics", hint="Use image_normalisation first"
            )
    channel -= mean
    channel /= max(spread, _SMALLEST_STD)


def merged_normalisation(records: Sequence[PreparedRecord], settings: Sequence[ChannelNormalisation]) -> Normalisation:
    """Merge the statistics of a fold's training cases, channel by channel; no validation case is looked at."""
    scalings: list[ChannelScaling] = []
    for channel, wanted in enumerate(settings):
        foreground = wanted.region == "foreground"
        found = [record.statistics_foreground if foreground else record.statistics_all for record in records]
        merged = fold_normalisation(
            [wanted.scheme],
            [[statistics[channel]] for statistics in found if statistics],
            lower_percentile=wanted.lower_percentile,
            upper_percentile=wanted.upper_percentile,
        )
        scalings += merged.channels
    return Normalisation(channels=tuple(scalings))
