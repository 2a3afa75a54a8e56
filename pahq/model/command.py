"""``pahq models NAME``: load a model, checks included, and write what it is to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pahq.config.arguments import Arguments


def main(argv: Sequence[str]) -> int:
    """``NAME --out FILE``. 0; PahqError for bad input."""
    parser = Arguments(prog="pahq models", description="load a model; write its name, digest and shape")
    parser.add_argument("name", metavar="NAME", help="embedded model, folder, or hub name with --revision")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to write the JSON")
    parser.add_argument("--revision", metavar="COMMIT", help="of a hub name")
    options = parser.parse_args(argv)
    from pahq.files.text import write_json
    from pahq.model import load_model

    model = load_model(options.name, revision=options.revision)
    config = model.config.model_dump(mode="json")
    write_json(options.out, {"name": options.name, "digest": model.digest, "config": config})
    return 0
