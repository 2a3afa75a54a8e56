"""Parsers of foreign text under atheris, which changes bytes so that ever more lines of a parser run.

    make fuzz SECONDS=60

Each parser in turn, in a process of its own (atheris ends it). Whatever is no ``PahqError`` in one line ends with a
traceback and a status other than 0, and the bytes that led there are kept in a file that libFuzzer names.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

SEEDS = {  # what to begin with
    "overrides": [b"task=nano-ioi", b"threshold=0.1,0.2", b"precision.format=int8"],
    "csv": [b'clean,corrupted,answer,wrong\n"a b","c d",e,f\n'],
    "jsonl": [b'{"clean": "a b", "corrupted": "c d", "answer": "e", "wrong": "f"}\n'],
    "graph": [b'{"cfg": {"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": false}, "nodes": {}, "edges": {}}'],
    "prompts": [b'{"task": "t", "metric": "kl", "search": {"clean": {"dtype": "int64", "rows": [[1]]}}, "fresh": {}}'],
    "journal": [b'{"i":0,"edge":"a","before":0.0,"after":0.5,"removed":false,"seconds":0.1}\n'],
}


def parsers(folder: Path) -> dict[str, Callable[[bytes], object]]:
    """By name what takes bytes; files go below ``folder``."""
    from pahq.cell.journal import read_journal
    from pahq.circuits.foreign import from_eap_ig
    from pahq.config.promptfile import read_pairs
    from pahq.experiments.compose import parse_overrides
    from pahq.files.text import read_json
    from pahq.verify.bundledprompts import read

    def written(name: str, parse: Callable[[Path], Any], raw: bytes) -> None:
        (folder / name).write_bytes(raw)
        parse(folder / name)

    return {
        "overrides": lambda raw: parse_overrides([raw.decode("utf-8", "surrogateescape")]),
        "csv": partial(written, "own.csv", read_pairs),
        "jsonl": partial(written, "own.jsonl", read_pairs),
        "graph": partial(written, "graph.json", lambda path: from_eap_ig(read_json(path))),
        "prompts": partial(written, "prompts.json", lambda path: read(read_json(path))),
        "journal": partial(written, "decisions.jsonl", read_journal),
    }


def fuzz(name: str, seconds: int) -> None:
    """One parser, until the time is over or a fault is found; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["pahq"]), tempfile.TemporaryDirectory() as folder:
        from pahq.errors import PahqError

        parse, corpus = parsers(Path(folder))[name], Path(folder) / "corpus"
        corpus.mkdir()
        for i, raw in enumerate(SEEDS[name]):
            (corpus / str(i)).write_bytes(raw)

        def one(raw: bytes) -> None:
            try:
                parse(raw)
            except PahqError as error:
                if not str(error).strip() or "\n" in str(error):
                    raise ValueError(f"not one sentence: {error!r}") from None

        atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=4096", str(corpus)], one)
        atheris.Fuzz()


def main(words: Sequence[str]) -> int:
    """``NAME SECONDS`` of one parser, or ``SECONDS`` of each; 1 if any has a fault."""
    if len(words) == 2:
        fuzz(words[0], int(words[1]))
        return 0
    found = {}
    for name in SEEDS:
        done = subprocess.run([sys.executable, "-m", __spec__.name, name, *words], capture_output=True, text=True)
        found[name] = done.returncode
        sys.stdout.write(f"{name}: {'no fault' if done.returncode == 0 else done.stderr[-3000:]}\n")
    sys.stdout.write(json.dumps(found) + "\n")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
