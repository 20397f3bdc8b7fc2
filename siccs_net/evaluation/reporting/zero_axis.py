"""A logarithmic axis with a place for zero at its low end, cut off from the rest by a break mark."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from siccs_net.evaluation.reporting.points import Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_ZERO_PART = 0.13
"""How much of the axis lies below the break."""
_DEFAULT_DECADES = (-1, 2)


@dataclass(frozen=True)
class ZeroScale:
    """Both axes' limits as powers of ten, and where 0 is drawn (None: there is no 0)."""

    low: int
    high: int
    has_zero: bool

    @property
    def start(self) -> float:
        """Where the axis begins, as a power of ten."""
        decades = self.high - self.low
        return self.low - decades * _ZERO_PART / (1 - _ZERO_PART) if self.has_zero else float(self.low)

    @property
    def zero(self) -> float:
        """The value at which 0 is drawn: a little below the middle of that part, for the break's sake."""
        return float(10 ** ((self.start + self.low) / 2 - (self.low - self.start) * 0.1))

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest value of the axis, with a little room above."""
        return float(10**self.start), float(10 ** (self.high + 0.04 * (self.high - self.low)))

    @property
    def identity(self) -> tuple[list[float], list[float]]:
        """The ends, x and y, of the line y = x above the break."""
        ends = [float(10.0**self.low), self.limits[1]]
        return ends, ends

    def placed(self, points: Points) -> Points:
        """Return the points where they are drawn: those at 0 in the place for it."""
        x, y = (np.where(values > 0, values, self.zero) for values in (points.x, points.y))
        return Points(x, y, points.missing)


def scale_of(values: NDArray[np.float64]) -> ZeroScale:
    """Return the scale of all values [n], which are 0 or above: whole decades around the positive ones."""
    positive = values[values > 0]
    low, high = _DEFAULT_DECADES
    if positive.size:
        low = math.floor(math.log10(positive.min()))
        high = max(math.ceil(math.log10(positive.max())), low + 1)
    return ZeroScale(low, high, bool((values <= 0).any()))


def set_up(axes: Axes, scale: ZeroScale) -> None:
    """Make both axes of a panel logarithmic, with ticks at the decades and, where there is a 0, its tick and break."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, NullFormatter

    axes.set(xscale="log", yscale="log", xlim=scale.limits, ylim=scale.limits)
    step = math.ceil((scale.high - scale.low) / 6)
    exponents = range(scale.high, scale.low - 1, -step)
    ticks = {10.0**exponent: _power(exponent) for exponent in exponents}
    if scale.has_zero:
        ticks[scale.zero] = "0"
    minor = LogLocator(subs="auto").tick_values(10.0**scale.low, scale.limits[1])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(list(ticks)))
        axis.set_major_formatter(FixedFormatter(list(ticks.values())))
        axis.set_minor_locator(FixedLocator([value for value in minor if value > 10.0**scale.low]))
        axis.set_minor_formatter(NullFormatter())
    if scale.has_zero:
        _draw_break(axes, scale)


def _power(exponent: int) -> str:
    return f"{10.0**exponent:g}" if -3 <= exponent <= 3 else "10" + str(exponent).translate(_SUPERSCRIPT)


def _draw_break(axes: Axes, scale: ZeroScale) -> None:
    """Cut both spines between 0 and the first decade with two slanted strokes, and grey the strip of zeros."""
    edge = 10 ** (scale.low - (scale.low - scale.start) * 0.25)
    for span, spine, x, y in (
        (axes.axvspan, axes.get_xaxis_transform(), [edge], [0.0]),
        (axes.axhspan, axes.get_yaxis_transform(), [0.0], [edge]),
    ):
        span(scale.limits[0], edge, color="0.95", zorder=0, linewidth=0)
        style: dict[str, Any] = {"transform": spine, "clip_on": False, "linestyle": "", "zorder": 5}
        axes.plot(x, y, marker="s", color="white", markersize=5, **style)
        axes.plot(x, y, marker=[(-0.9, -1.0), (-0.1, 1.0)], color="black", markersize=11, gid="break", **style)
        axes.plot(x, y, marker=[(0.1, -1.0), (0.9, 1.0)], color="black", markersize=11, gid="break", **style)


def count_zeros(axes: Axes, scale: ZeroScale, points: Mapping[str, Points]) -> None:
    """Write how many points of each class lie on one another where both volumes are 0, when they are several."""
    counts = {name: int(((found.x <= 0) & (found.y <= 0)).sum()) for name, found in points.items()}
    if sum(counts.values()) > 1:
        text = ", ".join(f"{name} ×{count}" for name, count in counts.items() if count)
        place = (scale.zero, scale.zero)
        axes.annotate(text, place, (7, -1), textcoords="offset points", va="center", size="small", zorder=6)
