"""Draws the circuit of a finished cell: one box a head or MLP, one line an edge, the logits on top.

    python tools/draw_circuit.py results/cells/nano-ioi/acdc-float32-t0.1-... circuit.png

Nodes that the circuit does not use are grey, so that the picture shows how much of the model it leaves out. The colour
of an edge says which input of a head it goes into: queries, keys or values.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from pahq.cell.files import read_result
from pahq.circuits.circuit import Circuit
from pahq.circuits.graph import Edge, ModelShape
from pahq.errors import PahqError

COLOURS = {"q": "#D55E00", "k": "#009E73", "v": "#0072B2", "": "#444444"}  # Okabe and Ito's
MEANINGS = {"q": "into queries", "k": "into keys", "v": "into values", "": "into an MLP or the logits"}
UNUSED = "#DDDDDD"
STEP = 1.25  # from one row of heads to the next, where heads of a row are one apart
GAP = 0.18  # between a node's middle and its lines
PORTS = {"q": -0.2, "k": 0.0, "v": 0.2, "": 0.0}  # where an edge arrives at a head, from its middle

Place = tuple[float, float]


def places(shape: ModelShape) -> dict[str, Place]:
    """Where every node stands: heads of a layer side by side, its MLP behind them and half a row higher."""
    middle = (shape.heads - 1) / 2
    found = {"embed": (middle, 0.0), "logits": (middle, STEP * (shape.layers + 1))}
    if shape.split_embed:
        found |= {"embed": (middle - 1, 0.0), "pos": (middle + 1, 0.0)}
    for layer in range(shape.layers):
        height = STEP * (layer + 1)
        found |= {f"a{layer}.h{head}": (float(head), height) for head in range(shape.heads)}
        if shape.mlp:
            found[f"m{layer}"] = (shape.heads + 0.4, height + STEP / 3)
    return found


def ends(edge: Edge, shape: ModelShape) -> list[tuple[str, str]]:
    """Names of the nodes that an Addition edge joins; a shared key or value input belongs to several heads."""
    receiver = edge.receiver
    if receiver.kind != "head":
        return [(str(edge.sender), str(receiver))]
    heads = shape.query_heads(receiver.letter, receiver.head)
    return [(str(edge.sender), f"a{receiver.layer}.h{head}") for head in heads]


def draw_nodes(axes: Axes, where: Mapping[str, Place], used: set[str]) -> None:
    for name, (x, y) in where.items():
        colour = "black" if name in used else UNUSED
        face = "white" if name in used else "#F7F7F7"
        words = name.partition(".")[2] or name
        box = {"boxstyle": "round,pad=0.3", "facecolor": face, "edgecolor": colour, "linewidth": 1.2}
        axes.text(
            x, y, words, ha="center", va="center", fontsize=9, color=colour if name in used else "#BBBBBB", bbox=box
        )


def draw_circuit(circuit: Circuit, title: str) -> Figure:
    """The circuit without edges that change no output (``Circuit.cleaned``); Direct edges have no line of their own."""
    shape, where = circuit.graph.shape, places(circuit.graph.shape)
    edges = [edge for i, edge in enumerate(circuit.graph.edges) if circuit.present[i] and not edge.direct]
    figure = Figure(figsize=(0.8 * (shape.heads + 2.5), 0.95 * (shape.layers + 2) + 0.8), layout="constrained")
    axes = figure.add_subplot()
    axes.axis("off")
    axes.set_title(title, fontsize=10)
    axes.set_xlim(-1.6, shape.heads + 1)
    axes.set_ylim(-0.5, STEP * (shape.layers + 1) + 0.5)
    used: set[str] = {"embed", "logits"} & set(where)
    for edge in edges:
        letter = edge.receiver.letter
        for sender, receiver in ends(edge, shape):
            used |= {sender, receiver}
            (x, y), (to_x, to_y) = where[sender], where[receiver]
            arrow = FancyArrowPatch(
                (x, y + GAP),
                (to_x + PORTS[letter], to_y - GAP),
                arrowstyle="-|>",
                mutation_scale=7,
                linewidth=1.1,
                color=COLOURS[letter],
                alpha=0.75,
                connectionstyle=f"arc3,rad={0.06 if to_y - y < 1.5 * STEP else 0.16}",  # around the rows between
            )
            axes.add_patch(arrow)
    draw_nodes(axes, where, used)
    for layer in range(shape.layers):
        axes.text(-1.5, STEP * (layer + 1), f"layer {layer}", va="center", fontsize=8, color="#777777")
    letters = [letter for letter in COLOURS if any(edge.receiver.letter == letter for edge in edges)]
    lines = [Line2D([], [], color=COLOURS[letter], label=MEANINGS[letter]) for letter in letters]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines) or 1, fontsize=8, frameon=False)
    return figure


def title_of(folder: Path, circuit: Circuit) -> str:
    config = read_result(folder).config
    counts = f"{len(circuit):,} of {len(circuit.graph.edges):,} edges"
    return f"{config.task.name}, {config.method.name}, threshold {config.threshold:g}: {counts}"


def main(argv: Sequence[str]) -> int:
    """``FOLDER FILE``: draw the circuit of the cell in FOLDER to FILE (PNG, PDF or SVG). 0, or 2 on bad input."""
    if len(argv) != 2:
        print("usage: python tools/draw_circuit.py FOLDER-OF-A-CELL FILE", file=sys.stderr)
        return 2
    folder, out = Path(argv[0]), Path(argv[1])
    try:
        found = Circuit.read(folder / "circuit.json")
        title, ablation = title_of(folder, found), read_result(folder).config.task.ablation
        figure = draw_circuit(found.cleaned(ablation=ablation), title)
        figure.savefig(out, dpi=110, metadata={"Software": None} if out.suffix == ".png" else None)
    except (PahqError, OSError, ValueError) as error:  # ValueError: a suffix that matplotlib cannot write
        print(f"draw_circuit: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
