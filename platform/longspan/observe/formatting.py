"""Numbers as people read them: shared by the progress lines, the console table, the plots and the report.

Pure functions from a value to a short ASCII string; a value that is missing or not finite reads as a dash.
"""

import math
from numbers import Integral, Real

MISSING = "-"


def is_number(value: object) -> bool:
    """True for a finite int or float (numpy scalars too), False for bool, None, NaN, infinities and text."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))


def as_float(value: object) -> float:
    """The value as a float; NaN for anything that is not a finite number, so that plots leave a gap."""
    return float(value) if is_number(value) else math.nan  # type: ignore[arg-type]


def number(value: object) -> str:
    """A count with thousands separators, or a float with four significant digits: 1_228_800 -> "1,228,800"."""
    if not is_number(value):
        return MISSING
    if isinstance(value, Integral):
        return f"{int(value):,}"
    real = as_float(value)
    if real != 0 and not 1e-3 <= abs(real) < 1e15:
        return f"{real:.3e}"
    digits = max(0, 3 - math.floor(math.log10(abs(real)))) if real else 0
    text = f"{real:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def compact(value: object) -> str:
    """A count in three significant digits with a suffix: 24_130 -> "24.1k", 1_228_800 -> "1.23M"."""
    if not is_number(value):
        return MISSING
    real = as_float(value)
    for index, suffix in enumerate(("", "k", "M", "G", "T")):
        scaled = real / 1000**index
        # 999.5 would print as "1e+03" with three digits, so it already belongs to the next suffix.
        if abs(scaled) < 999.5 or suffix == "T":
            return f"{scaled:.3g}{suffix}" if abs(scaled) < 999.5 else f"{scaled:,.0f}{suffix}"
    raise AssertionError("the last suffix always returns")


def percent(fraction: object) -> str:
    """A fraction as percent, without decimals unless they tell 100 % from almost: 0.994 -> "99.4%"."""
    if not is_number(fraction):
        return MISSING
    scaled = 100 * as_float(fraction)
    text = f"{scaled:.1f}"
    return f"{text.removesuffix('.0')}%"


def duration(seconds: object) -> str:
    """Seconds as a span of time: 0.42 -> "0.42 s", 83 -> "1 min 23 s", 7325 -> "2 h 2 min"."""
    if not is_number(seconds):
        return MISSING
    real = as_float(seconds)
    if real < 0:
        return MISSING
    if real < 59.95:
        return f"{real:.2g} s" if real < 9.95 else f"{real:.1f} s".replace(".0 s", " s")
    whole = round(real)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(real / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def token_length(num_tokens: int) -> str:
    """A context length the way the field says it: 1024 -> "1k", 131072 -> "128k", 1000 -> "1000"."""
    for unit, suffix in ((1 << 20, "M"), (1 << 10, "k")):
        if num_tokens >= unit and num_tokens % unit == 0:
            return f"{num_tokens // unit}{suffix}"
    return str(num_tokens)
