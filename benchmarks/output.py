"""Where a benchmark's report goes: to the screen, and to a file if one is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def publish(report: Mapping[str, Any], path: Path | None, *, quietly: bool = False) -> None:
    """Write a report as JSON; ``quietly``: to the file alone."""
    text = json.dumps(report, indent=1) + "\n"
    if not quietly:
        sys.stdout.write(text)
    if path is not None:
        path.write_text(text)
