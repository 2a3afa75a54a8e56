"""A synthetic experiment on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.made_cells import make_experiment


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A whole synthetic experiment, for tests that only read its cells: (root, cell ids)."""
    root = tmp_path_factory.mktemp("results")
    return root, make_experiment(root)
