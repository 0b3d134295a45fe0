"""Histograms and bars as SVG: text, sharp at any size, without a script."""

import math
from dataclasses import dataclass
from html import escape

#: Size of a histogram in its own units; the page scales it.
WIDTH, HEIGHT = 320, 150
_LEFT, _BOTTOM, _TOP = 8, 34, 16


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins of equal width.

    Attributes:
        title: What is counted.
        unit: Of the values; empty for a number without one.
        low: Where the first bin begins.
        width: Of a bin.
        counts: One a bin.
        whole: Whether each bin is one whole number, which then stands below its middle.
    """

    title: str
    unit: str
    low: float
    width: float
    counts: tuple[int, ...]
    whole: bool = False


def bin_width(low: float, high: float, *, whole: bool, n_bins: int = 24) -> float:
    """A round width, 1, 2 or 5 times a power of ten, of about `n_bins` bins.

    Args:
        low: Smallest value.
        high: Largest value.
        whole: Whether values are whole numbers: then the width is, too.
        n_bins: Bins at most, about.
    """
    rough = (high - low) / n_bins
    if not rough > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    width = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    return max(1.0, round(width)) if whole else width


def number(value: float) -> str:
    """A number for an axis."""
    return f"{value:,.4g}" if abs(value) < 1e5 else f"{value:,.0f}"


def histogram(data: Histogram) -> str:
    """Draw it; each bar says its numbers when pointed at."""
    n, most, total = len(data.counts), max(data.counts, default=0), sum(data.counts)
    unit = f" {data.unit}" if data.unit else ""
    name = escape(data.title + (f", {data.unit}" if data.unit else ""))
    plot = HEIGHT - _BOTTOM - _TOP
    step = (WIDTH - 2 * _LEFT) / max(n, 1)
    parts = []
    for k, count in enumerate(data.counts):
        if not count:
            continue
        height = max(1.0, plot * count / most)
        begin = data.low + k * data.width
        end = "" if data.whole else f" to {number(begin + data.width)}"
        tip = f"{number(begin)}{end}{unit}: {count:,}"
        parts.append(
            f'<rect class="bar" x="{_LEFT + k * step:.1f}" y="{_TOP + plot - height:.1f}" '
            f'width="{max(step - 1, 0.5):.1f}" height="{height:.1f}"><title>{escape(tip)}</title>'
            "</rect>"
        )
    axis = _TOP + plot
    parts.append(f'<path class="axis" d="M{_LEFT} {axis}H{WIDTH - _LEFT}"/>')
    last = n - 1 if data.whole else n
    for k in sorted({0, last // 2, last}):
        anchor = "middle" if data.whole or 0 < k < last else "start" if k == 0 else "end"
        x = _LEFT + (k + 0.5 * data.whole) * step
        parts.append(
            f'<text x="{x:.1f}" y="{axis + 14}" text-anchor="{anchor}">'
            f"{number(data.low + k * data.width)}</text>"
        )
    parts.append(f'<text x="{_LEFT}" y="{_TOP - 5}">{most:,}</text>')
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT - 14}" role="img" aria-label="{name}">'
        f"{''.join(parts)}</svg><figcaption>{name}<br><small>{total:,} values</small></figcaption>"
        "</figure>"
    )


def over_time(title: str, values: list[float], width_s: float, most: float) -> str:
    """Values of a run's time, one for each stretch of it.

    Args:
        title: What they are.
        values: From the run's begin on.
        width_s: Seconds of a stretch.
        most: What reaches to the top.
    """
    plot, step = HEIGHT - _BOTTOM - _TOP, (WIDTH - 2 * _LEFT) / max(len(values), 1)
    axis, parts = _TOP + plot, []
    for k, value in enumerate(values):
        height = plot * min(value / most, 1.0)
        tip = f"{number(k * width_s)} to {number((k + 1) * width_s)} s: {number(value)}"
        parts.append(
            f'<rect class="bar" x="{_LEFT + k * step:.1f}" y="{axis - height:.1f}" '
            f'width="{step:.1f}" height="{height:.1f}"><title>{escape(tip)}</title></rect>'
        )
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}H{WIDTH - _LEFT}M{_LEFT} {axis}h{WIDTH}"/>')
    parts.append(f'<text x="{_LEFT}" y="{axis + 14}">0</text>')
    parts.append(
        f'<text x="{WIDTH - _LEFT}" y="{axis + 14}" text-anchor="end">'
        f"{number(len(values) * width_s)} s</text>"
    )
    parts.append(f'<text x="{_LEFT}" y="{_TOP - 5}">{number(most)}</text>')
    name = escape(title)
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT - 14}" role="img" aria-label="{name}">'
        f"{''.join(parts)}</svg><figcaption>{name}</figcaption></figure>"
    )


def bars(rows: list[tuple[str, float, str]]) -> str:
    """A table of bars: a name, a length from 0 to 1 of the longest, and what to write beside it."""
    longest = max((length for _, length, _ in rows), default=0.0) or 1.0
    return (
        '<table class="bars">'
        + "".join(
            f"<tr><th>{escape(name)}</th>"
            f"<td><div style='width:{100 * length / longest:.1f}%'></div></td>"
            f"<td>{escape(text)}</td></tr>"
            for name, length, text in rows
        )
        + "</table>"
    )
