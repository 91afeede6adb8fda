"""Bar charts as SVG, written by hand: no library is worth its weight for a few rectangles.

What lives here: drawing named numbers. What must not: knowing what they mean.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 860
LABEL_WIDTH = 170
VALUE_WIDTH = 90
ROW_HEIGHT = 22
TITLE_HEIGHT = 34
NOTE_HEIGHT = 17
MARGIN = 16
OURS, OTHERS, TEXT = "#c2410c", "#64748b", "#0f172a"


@dataclass(frozen=True)
class Chart:
    """A title, and bars from the top: name and value (not negative)."""

    title: str
    bars: Sequence[tuple[str, float]]


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{TEXT}"{more}>{escape(text)}</text>'


def number(value: float) -> str:
    """Three figures or the whole number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def svg(charts: Sequence[Chart], ours: Collection[str] = (), notes: Sequence[str] = ()) -> str:
    """Return all charts below one another, each with its own scale, then the notes; names in ``ours`` stand out."""
    room = WIDTH - 2 * MARGIN - LABEL_WIDTH - VALUE_WIDTH
    parts, y = [], float(MARGIN)
    for chart in charts:
        parts.append(_text(MARGIN, y + TITLE_HEIGHT * 0.6, chart.title, ' font-weight="bold"'))
        y += TITLE_HEIGHT
        longest = max((value for _, value in chart.bars), default=0.0) or 1.0
        for name, value in chart.bars:
            width = max(1.0, room * value / longest)
            left, middle = MARGIN + LABEL_WIDTH, y + ROW_HEIGHT * 0.68
            color = OURS if name in ours else OTHERS
            parts.append(_text(left - 8, middle, name, ' text-anchor="end"'))
            parts.append(
                f'<rect x="{left}" y="{y + 3:.1f}" width="{width:.1f}" height="{ROW_HEIGHT - 6}" fill="{color}"/>'
            )
            parts.append(_text(left + width + 6, middle, number(value)))
            y += ROW_HEIGHT
        y += MARGIN
    for note in notes:
        parts.append(_text(MARGIN, y, note, ' font-size="11"'))
        y += NOTE_HEIGHT
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y:.0f}" viewBox="0 0 {WIDTH} {y:.0f}" '
        f'font-family="sans-serif" font-size="13">\n<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
    )
