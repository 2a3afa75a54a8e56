"""Circuits of others, and bundles, that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from pahq.circuits.circuit import Circuit
from pahq.circuits.foreign import to_eap_ig
from pahq.circuits.graph import ModelShape, build_graph
from support.bad.cells import flipped
from support.bad.row import Make, Row, file
from support.places import ROOT

KEPT = ROOT / "tests" / "files" / "bundles"
GRAPH = build_graph(ModelShape(2, 1, 1, mlp=True), direct_edges=False)


def foreign(change: Callable[[dict[str, Any]], object]) -> Make:
    values = to_eap_ig(Circuit.from_indices(GRAPH, [0, 1]), [0.5] * len(GRAPH.edges), 4)
    change(values)
    return file(json.dumps(values), "graph.json")


def first(values: dict[str, Any]) -> dict[str, Any]:
    return next(iter(values["edges"].values()))  # type: ignore[no-any-return]


IMPORTS: list[tuple[str, Make, str, str]] = [
    ("no JSON", file("{", "graph.json"), "", "given/graph.json is not readable JSON: Expecting property"),
    (
        "a deep JSON",
        file("[" * 100_000, "graph.json"),
        "",
        "given/graph.json is not readable JSON: it is nested too deeply",
    ),
    ("a list", file("[]", "graph.json"), "", "(list indices must be integers or slices, not str)"),
    ("no edges", foreign(lambda values: values.pop("edges")), "", "('edges')"),
    ("an edge less", foreign(lambda values: values["edges"].popitem()), "", "the graph lacks the edge 'm1->logits'"),
    (
        "an edge more",
        foreign(lambda values: values["edges"].update({"a9.h9->logits": first(values)})),
        "",
        "no graph of EAP-IG of 2 layers and 1 heads has an edge",
    ),
    (
        "a score in words",
        foreign(lambda values: first(values).update(score="high")),
        "",
        "(could not convert string to float: 'high')",
    ),
    (
        "a score that is none",
        foreign(lambda values: first(values).update(score=float("nan"))),
        "",
        "the score of input->a0.h0<q> is nan, which is no finite number",
    ),
    ("a place in numbers", foreign(lambda values: first(values).update(in_graph=1)), "", "(in_graph is true or false)"),
    (
        "no layers",
        foreign(lambda values: values["cfg"].update(n_layers=0)),
        "",
        "no graph of EAP-IG of 0 layers and 1 heads has 23 edges",
    ),
    (
        "many layers",
        foreign(lambda values: values["cfg"].update(n_layers=10**9)),
        "",
        "no graph of EAP-IG of 1000000000 layers and 1 heads has 23",
    ),
    (
        "heads in words",
        foreign(lambda values: values["cfg"].update(n_heads="one")),
        "",
        "(n_layers and n_heads are whole numbers, parallel_attn_mlp is",
    ),
    (
        "nothing chosen",
        foreign(lambda values: [of.update(in_graph=False) for of in values["edges"].values()]),
        "",
        "given/graph.json has no edge in its graph, so nothing is",
    ),
    (
        "everything chosen",
        foreign(lambda values: [of.update(in_graph=True) for of in values["edges"].values()]),
        "",
        "given/graph.json has every edge in its graph, so nothing is",
    ),
    (
        "a size beyond",
        foreign(lambda values: None),
        "--size 99",
        "size: a number of edges from 0 to 23 or a share from 0.0 to",
    ),
    (
        "no size",
        foreign(lambda values: None),
        "--size 0",
        "pahq import: --size is a number of edges (50) or a share of",
    ),
    (
        "a size below",
        foreign(lambda values: None),
        "--size -1",
        "pahq import: --size is a number of edges (50) or a share of",
    ),
    (
        "a share beyond",
        foreign(lambda values: None),
        "--size 1.5",
        "size: a number of edges from 0 to 23 or a share from 0.0 to",
    ),
    (
        "a size that is none",
        foreign(lambda values: None),
        "--size nan",
        "pahq import: --size is a number of edges (50) or a share of",
    ),
]


def kept(change: Callable[[bytes], bytes]) -> Make:
    return lambda given: (given / "b.zip").write_bytes(change((KEPT / "scores-0.2.0.zip").read_bytes()))


BUNDLES: list[tuple[str, Make, str, str]] = [
    ("an empty bundle", kept(lambda raw: b""), "", "it is empty; a file as `pahq bundle CELL --out FILE.zip`"),
    ("a cut bundle", kept(lambda raw: raw[:-1]), "", "it was cut or changed: its bytes are not those that were"),
    (
        "half a bundle",
        kept(lambda raw: raw[: len(raw) // 2]),
        "",
        "it was cut or changed: its bytes are not those that were",
    ),
    ("a flipped bit", kept(flipped), "", "it was cut or changed: its bytes are not those that were"),
    ("more behind it", kept(lambda raw: raw + b"x"), "", "it was cut or changed: its bytes are not those that were"),
    ("more before it", kept(lambda raw: b"x" + raw), "", "it is no ZIP file; a file as `pahq bundle CELL --out"),
    (
        "a way out",
        kept(lambda raw: raw.replace(b"config.json", b"../../x.jso")),
        "",
        "it holds '../../x.jso', which has no place in it; a file as",
    ),
    (
        "a later version",
        kept(lambda raw: raw.replace(b'"version": 1', b'"version": 2')),
        "",
        "it was cut or changed: its bytes are not those that were",
    ),
    ("a text", file("PK", "b.zip"), "", "it is no ZIP file; a file as `pahq bundle CELL --out"),
    ("a folder", lambda given: (given / "b.zip").mkdir(), "", "given/b.zip is a folder"),
    ("a link to nowhere", lambda given: (given / "b.zip").symlink_to("x"), "", "given/b.zip does not exist"),
    (
        "a sample of nothing",
        kept(lambda raw: raw),
        "--sample 0",
        "pahq verify: --sample is a number of tests from 1 on, not 0",
    ),
    (
        "a sample of scores",
        kept(lambda raw: raw),
        "--sample 5",
        "method eap-ig gives all scores at once, so that no sample of",
    ),
    (
        "a seed without a sample",
        kept(lambda raw: raw),
        "--seed 5",
        "pahq verify: --seed draws a sample: say --sample N too",
    ),
    (
        "another engine",
        kept(lambda raw: raw),
        "--engine suffix",
        "pahq verify: a bundle is decided by the reference engine in",
    ),
    (
        "another model",
        kept(lambda raw: raw),
        "--model nano",
        "given/b.zip includes its model, so that none is to be given",
    ),
]


def rows() -> Iterator[Row]:
    for name, make, more, says in IMPORTS:
        yield Row(f"import given/graph.json --like $FINISHED {more}", says, make, f"an import: {name}")
    for name, make, more, says in BUNDLES:
        yield Row(f"verify given/b.zip {more}", says, make, f"a bundle: {name}")
