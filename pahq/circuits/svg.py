"""A picture as SVG text: no library, words stay words, and hovering over an edge names it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from html import escape

from pahq.circuits.layout import Point
from pahq.circuits.picture import Curve, Patch, Picture, Shape, Words

FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Drawing:
    """A drawn circuit, which a notebook shows as it is; ``svg`` is its text."""

    picture: Picture

    @cached_property
    def svg(self) -> str:
        return to_svg(self.picture)

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<a drawing of {self.picture.width:.0f} by {self.picture.height:.0f} points>"


def to_svg(picture: Picture) -> str:
    """The whole file, one shape a line; the same picture gives the same bytes."""
    size = f'width="{picture.width:.0f}pt" height="{picture.height:.0f}pt"'
    box = f'viewBox="0 0 {picture.width:.1f} {picture.height:.1f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} font-family="{FONT}">'
    return "\n".join([head, *(_shape(shape) for shape in picture.shapes), "</svg>", ""])


def _shape(shape: Shape) -> str:
    if isinstance(shape, Words):
        bold = ' font-weight="bold"' if shape.bold else ""
        place = f'x="{shape.at[0]:.1f}" y="{shape.at[1]:.1f}" font-size="{shape.size:g}"'
        return f'<text {place} fill="{shape.colour}" text-anchor="{shape.anchor}"{bold}>{escape(shape.text)}</text>'
    faint = f' opacity="{shape.opacity:g}"' if shape.opacity < 1 else ""
    if isinstance(shape, Curve):
        dash = f' stroke-dasharray="{" ".join(f"{one:g}" for one in shape.dash)}"' if shape.dash else ""
        line = f'fill="none" stroke="{shape.colour}" stroke-width="{shape.width:.2f}"'
        return f'<path d="{"".join(_pieces(shape.points))}" {line}{dash}{faint}{_told("path", shape.about)}'
    drawn = f'fill="{shape.fill}"' + (f' stroke="{shape.line}" stroke-width="{shape.width:g}"' if shape.width else "")
    if len(shape.points) == 2:
        (x, y), (right, foot) = shape.points
        place = f'x="{x:.1f}" y="{y:.1f}" width="{right - x:.1f}" height="{foot - y:.1f}" rx="{corner(shape):g}"'
        return f"<rect {place} {drawn}{faint}{_told('rect', shape.about)}"
    points = " ".join(_at(point) for point in shape.points)
    return f'<polygon points="{points}" {drawn}{faint}{_told("polygon", shape.about)}'


def corner(patch: Patch) -> float:
    """The radius of a rectangle's corners: none of those without a border, such as the paper."""
    return 2.5 if patch.width else 0.0


def _pieces(points: tuple[Point, ...]) -> Iterator[str]:
    yield f"M{_at(points[0])}"
    for i in range(1, len(points), 3):
        yield f"C{' '.join(_at(point) for point in points[i : i + 3])}"


def _at(point: Point) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"


def _told(name: str, about: str) -> str:
    return f"><title>{escape(about)}</title></{name}>" if about else "/>"
