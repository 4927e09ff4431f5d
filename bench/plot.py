"""Bars as an SVG of our own writing, readable on light and on dark paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

_WIDTH, _LEFT, _RIGHT = 760, 180, 70
_BAR, _GAP, _GROUP, _TOP = 14, 3, 34, 62
_COLOURS = ("#2f7ed8", "#7b61c9", "#1b9e77", "#9aa4b1", "#c9ced6", "#d98f3d", "#c25b5b", "#8d6e63", "#5b8c9e")
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f }
  .title { font-size: 15px; font-weight: 600 }
  .group { font-weight: 600 }
  .axis { stroke: #8c959f; stroke-width: 1 }
  @media (prefers-color-scheme: dark) { text { fill: #d0d7de } }
"""


def bars(title: str, unit: str, groups: Mapping[str, Mapping[str, float]]) -> str:
    """A group of horizontal bars for each key, and one colour for each name within."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    most = max((value for group in groups.values() for value in group.values()), default=0) or 1
    drawn, height = _groups(groups, names, (_WIDTH - _LEFT - _RIGHT) / most)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="12" y="24">{escape(title)}</text>',
        f'<text x="12" y="42">{escape(unit)}</text>',
        *drawn,
        f'<line class="axis" x1="{_LEFT}" y1="{_TOP - 8}" x2="{_LEFT}" y2="{height - 8}"/>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _groups(
    groups: Mapping[str, Mapping[str, float]], names: Sequence[str], scale: float
) -> tuple[list[str], int]:
    """The lines of all groups, and where they end."""
    lines: list[str] = []
    top = _TOP
    for label, values in groups.items():
        lines.append(f'<text class="group" x="12" y="{top + 8}">{escape(label)}</text>')
        top += _GROUP // 2
        for name, value in values.items():
            lines += _bar(name, value, top, scale, _COLOURS[names.index(name) % len(_COLOURS)])
            top += _BAR + _GAP
        top += _GROUP // 2
    return lines, top


def _bar(name: str, value: float, top: int, scale: float, colour: str) -> Iterator[str]:
    middle, width = top + _BAR - 3, max(1.0, value * scale)
    shown = f"{value:.0f}" if value >= 10 else f"{value:.1f}"
    yield f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>'
    yield f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR}" rx="2" fill="{colour}"/>'
    yield f'<text x="{_LEFT + width + 6:.1f}" y="{middle}">{shown}</text>'
