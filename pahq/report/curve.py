"""A search as a curve: the loss after every test, and how many edges were kept by then."""

from __future__ import annotations

from collections.abc import Sequence

from pahq.cell.journal import JournalLine
from pahq.cell.result import Result

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720.0, 240.0, 64.0, 40.0, 26.0, 64.0
POINTS = 1000  # of a line at most
FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"


def curve(journal: Sequence[JournalLine], result: Result) -> str:
    """An SVG: the loss of what is left after each test (left scale), and how many edges were kept by then (right)."""
    assert result.search is not None
    losses, kept = [result.search.start], [0]
    for line in journal:
        losses.append(line.after if line.removed else losses[-1])
        kept.append(kept[-1] + (not line.removed))
    low, most = min(losses), max(kept[-1], 1)
    span = max(max(losses) - low, 1e-12)  # losses of a task's own metric may lie below nought
    shapes = [
        _line([(loss - low) / span for loss in losses], "#0072B2", 2.0),
        _line([edges / most for edges in kept], "#999999", 1.5),
        _words(LEFT, TOP - 10, "loss", "#0072B2"),
        _words(WIDTH - RIGHT, TOP - 10, "edges kept", "#666666", "end"),
        *(_words(LEFT - 8, _y(share) + 4, f"{low + share * span:.3g}", "#0072B2", "end") for share in (0.0, 0.5, 1.0)),
        *(_words(WIDTH - RIGHT + 8, _y(share) + 4, f"{share * most:,.4g}", "#666666") for share in (0.0, 0.5, 1.0)),
        _words(LEFT, HEIGHT - 18, "0", "#333333", "middle"),
        _words(WIDTH - RIGHT, HEIGHT - 18, f"{len(journal):,} tests", "#333333", "middle"),
        f'<path d="M{LEFT},{TOP} V{HEIGHT - BOTTOM} H{WIDTH - RIGHT} V{TOP}" fill="none" stroke="#bbbbbb"/>',
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:.0f}" height="{HEIGHT:.0f}" '
    head += f'viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" font-family="{FONT}" font-size="12" role="img">'
    title = "<title>The loss and the number of edges kept, test by test</title>"
    return "\n".join([head, title, *shapes, "</svg>", ""])


def _line(shares: Sequence[float], colour: str, width: float) -> str:
    """Values from 0 to 1; of a long line every so manyth one, and the last."""
    step = max(1, len(shares) // POINTS)
    chosen = sorted({*range(0, len(shares), step), len(shares) - 1})
    wide = (WIDTH - LEFT - RIGHT) / max(1, len(shares) - 1)
    points = " ".join(f"{LEFT + i * wide:.1f},{_y(shares[i]):.1f}" for i in chosen)
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _words(x: float, y: float, text: str, colour: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{text}</text>'
