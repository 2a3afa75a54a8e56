"""Where a benchmark's report goes: to the screen, and to a file if one is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def publish(report: Mapping[str, Any], path: Path | None) -> None:
    """Write a report as JSON."""
    text = json.dumps(report, indent=1) + "\n"
    sys.stdout.write(text)
    if path is not None:
        path.write_text(text)
