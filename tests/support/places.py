"""Where the tests find what is no code: the repository's root, recorded runs, and the folder beside a checkout."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
SHARED = ROOT.parent / "shared"  # lies beside some checkouts; where it does not, tests of it are skipped
