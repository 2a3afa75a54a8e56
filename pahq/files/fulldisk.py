"""A full disk is told in one sentence. Files are written whole or line by line, so nothing is lost by it. No torch."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pahq.errors import PahqError

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def told_if_full(folder: Path | None = None) -> Iterator[None]:
    """Turn the errors of a full disk, or of a quota that is used up, into a PahqError.

    ``folder`` is where most files are written; the error itself seldom says which disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        places = [str(place) for place in (error.filename or folder, tempfile.gettempdir()) if place]
        raise PahqError(
            f"the disk is full ({error.strerror}), that of {' or of '.join(places)}; nothing that was finished or "
            "decided is lost: the same command goes on once there is room"
        ) from None
