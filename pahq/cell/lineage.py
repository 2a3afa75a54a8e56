"""What was computed of what, as W&B's artifacts have it: model -> cell's run -> circuit -> experiment's run -> tables.

W&B knows an artifact by its content. So the same model, or the same circuit, is one artifact whichever run says so,
and it does not matter whether that run was logged online, or offline and sent later.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pahq.cell.result import Result
from pahq.config.cell import CellConfig
from pahq.files.text import write_json

if TYPE_CHECKING:
    import wandb


def uses(tracked: wandb.Run, artifact: wandb.Artifact) -> None:
    """Say that the run reads an artifact.

    W&B's ``use_artifact`` refuses to offline. What it would write there ``wandb sync`` reads as it reads the rest.
    """
    if tracked.offline:
        tracked._log_artifact(artifact, is_user_created=True, use_after_commit=True)
    else:
        tracked.use_artifact(artifact)


def model_artifact(cell: CellConfig, result: Result, root: Path) -> wandb.Artifact:
    """A cell's model: the sha256 of its weights, and their place on a hub. The weights themselves are not uploaded."""
    import wandb

    digest, model = result.model_digest, cell.model
    about = {"name": model.name, "source": model.source, "revision": model.revision, "sha256": digest}
    artifact = wandb.Artifact(f"model-{digest[:16]}", type="model", metadata=about)
    file = root / "wandb" / "models" / f"{digest}.json"
    write_json(file, {"sha256": digest})
    artifact.add_file(str(file), name="model.json", policy="immutable")
    if model.revision is not None:
        hub = f"https://huggingface.co/{model.source}/tree/{model.revision}"
        artifact.add_reference(hub, name="weights", checksum=False)
    return artifact


def circuit_artifact(cell: CellConfig, folder: Path) -> wandb.Artifact:
    """A finished cell's circuit, with the settings that it was found by."""
    import wandb

    artifact = wandb.Artifact(f"circuit-{cell.digest}", type="circuit", metadata={"cell": cell.id})
    for name in ("circuit.json", "config.json"):
        # Immutable: the file is read where it lies, not copied to the user's home first.
        artifact.add_file(str(folder / name), policy="immutable")
    return artifact
