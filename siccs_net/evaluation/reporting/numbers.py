"""Numbers of a report as text: one way to write each kind, in the terminal, on the page and in the figures."""

from __future__ import annotations

import unicodedata

from siccs_net.records.report import Agreement, Correlation, GroupComparison, MeanEstimate, PairedComparison, Report

UNDEFINED = "–"
NOT_PRINTED = "not given"
NOT_MEASURED = "not measured"
P_METHODS = "p: exact, by random permutations (perm.), by Student’s t (t) or by a normal approximation (normal)."
_P_METHODS = {"exact": "exact", "permutation": "perm.", "t": "t", "normal": "normal"}


def number(value: float | None, digits: int) -> str:
    """Return a number with `digits` decimals and a true minus sign; None is a dash, and nothing is minus zero."""
    return UNDEFINED if value is None else f"{value:z.{digits}f}".replace("-", "−")


def p_value(p: float | None, method: str | None = None) -> str:
    """Return p with three decimals, or "<0.001" below that, and how it was found."""
    if p is None:
        return UNDEFINED
    text = "<0.001" if p < 0.001 else f"{p:.3f}"
    return text if method is None else f"{text} ({_P_METHODS[method]})"


def interval(low: float | None, high: float | None, digits: int) -> str:
    """Return "[low, high]", with dashes where there is no interval."""
    return f"[{number(low, digits)}, {number(high, digits)}]"


def mean_text(estimate: MeanEstimate) -> str:
    """Return "mean ± standard error [low, high]" with one decimal, or a dash and the reason."""
    if estimate.mean is None:
        return f"{UNDEFINED} (n {estimate.n})"
    if estimate.standard_error is None:
        return f"{number(estimate.mean, 1)} (n {estimate.n}, no interval)"
    error = number(estimate.standard_error, 1)
    return f"{number(estimate.mean, 1)} ± {error} {interval(estimate.low, estimate.high, 1)}"


def rho_text(found: Correlation) -> str:
    """Return "rho [low, high]" with three decimals, or a dash and the reason."""
    if found.rho is None:
        reason = f"n {found.n}" if found.n < 3 else "a constant"
        return f"{UNDEFINED} ({reason})"
    return f"{number(found.rho, 3)} {interval(found.low, found.high, 3)}"


def count_text(n: int, left_out: int, why: str = "missing") -> str:
    """Return n, and how many cases were left out and why."""
    return f"{n} ({left_out} {why})" if left_out else str(n)


def paper_dice(mean: float | None, standard_error: float | None) -> str:
    """Return the Dice in percent that the paper printed."""
    if mean is None:
        return NOT_PRINTED
    return number(mean, 1) if standard_error is None else f"{number(mean, 1)} ± {number(standard_error, 1)}"


def paper_rho(value: float | None) -> str:
    """Return the rho that the paper printed."""
    return NOT_PRINTED if value is None else number(value, 3)


def bias_text(found: Agreement, digits: int) -> str:
    """Return "bias [low, high]", or a dash and the reason."""
    if found.bias is None:
        return f"{UNDEFINED} (n {found.n})"
    return f"{number(found.bias, digits)} {interval(found.bias_low, found.bias_high, digits)}"


def limits_text(found: Agreement, digits: int) -> str:
    """Return the limits of agreement as "low to high", or a dash and the reason."""
    if found.lower_limit is None or found.upper_limit is None:
        return f"{UNDEFINED} (n {found.n})"
    return f"{number(found.lower_limit, digits)} to {number(found.upper_limit, digits)}"


def icc_text(found: Agreement) -> str:
    """Return "ICC [low, high]" with three decimals, or a dash and the reason."""
    if found.icc is None:
        return f"{UNDEFINED} ({f'n {found.n}' if found.n < 2 else 'no variance'})"
    return f"{number(found.icc, 3)} {interval(found.icc_low, found.icc_high, 3)}"


def effect_text(found: GroupComparison) -> str:
    """Return "rank-biserial correlation [low, high]" with two decimals, or a dash and the reason."""
    if found.effect is None:
        return f"{UNDEFINED} (n {found.n_first} and {found.n_second})"
    return f"{number(found.effect, 2)} {interval(found.effect_low, found.effect_high, 2)}"


def difference_text(found: PairedComparison) -> str:
    """Return "mean difference [low, high]" with one decimal, or a dash and the reason."""
    if found.mean_difference is None:
        return f"{UNDEFINED} (n {found.n})"
    return f"{number(found.mean_difference, 1)} {interval(found.low, found.high, 1)}"


def cases_and_folds(report: Report) -> str:
    """Return how many cases there are, in how many folds."""
    cases, folds = len(report.cases), report.folds
    return f"{cases} {'case' if cases == 1 else 'cases'} in {folds} {'fold' if folds == 1 else 'folds'}"


def unbroken(caption: str) -> str:
    """Return a caption in which no line ends between a number and its percent sign."""
    return caption.replace(" %", "\N{NO-BREAK SPACE}%")


def plain(text: str) -> str:
    """Return a text on one line without control characters, which a name read from a file may hold."""
    return " ".join("".join(" " if unicodedata.category(sign)[0] == "C" else sign for sign in text).split())


def printed_width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)
    return len(text) + wide - sum(unicodedata.combining(sign) > 0 for sign in text)
