"""How smoothly the explorer moves: frames a second of a circuit that is panned, and of a sweep whose slider goes on by
a step at every frame, in a headless Chromium.

    python benchmarks/explorer.py --json FILE

Circuits of 100, 1,000 and 5,000 edges, and sweeps of ten sizes up to these, three times each. Chromium has to be there
(Debian's package chromium).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from output import publish

import pahq
from pahq.circuits.graph import ModelShape, build_graph
from pahq.circuits.scores import Scores

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from photograph import FOUND, Browser

MOVE = """new Promise((done) => { let n = 0; const begin = performance.now(); const frame = () => { n++;
explorer.panBy({ x: 6 * Math.sin(n / 9), y: 4 * Math.cos(n / 7) }); const past = performance.now() - begin;
past < 3000 ? requestAnimationFrame(frame) : done((1000 * n) / past); }; requestAnimationFrame(frame); })"""

SLIDE = """new Promise((done) => { let n = 0; const begin = performance.now(), slider = document.getElementById("step");
const frame = () => { const at = n++ % 18; slider.value = at > 9 ? 18 - at : at; 
slider.dispatchEvent(new Event("input")); const past = performance.now() - begin;
past < 3000 ? requestAnimationFrame(frame) : done((1000 * n) / past); };
requestAnimationFrame(frame); })"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(argv)
    if FOUND is None:
        parser.error("there is no Chromium here")
    graph = build_graph(ModelShape(12, 12, 12, mlp=True), direct_edges=False)
    scores = Scores(graph, tuple(float(1 + edge % 97) for edge in range(len(graph.edges))), "exact", "kl")
    rows = []
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        Browser(Path(folder) / "profile") as browser,
    ):
        for edges in (100, 1000, 5000):
            page = Path(folder) / f"{edges}.html"
            sizes = [edges * step // 10 for step in range(1, 11)]
            circuits = {size: scores.top(size, clean=False) for size in sizes}
            for what, drawn, script in (("circuit", circuits[edges], MOVE), ("sweep", circuits, SLIDE)):
                pahq.draw(drawn, page, scores=scores, limit=edges)
                browser.open(page)
                rates, size = [browser.tell(script) for _ in range(3)], page.stat().st_size
                rows.append({"what": what, "edges": edges, "bytes": size, "frames_per_second": rates})
                print(f"{what} of {edges:,} edges: {statistics.median(rates):.0f} frames a second, {size / 1e6:.2f} MB")
    publish({"rows": rows}, given.json, quietly=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
