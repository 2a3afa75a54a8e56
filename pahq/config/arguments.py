"""Options of a command. What argparse refuses is told in one sentence, as every bad input is. No torch."""

from __future__ import annotations

import argparse
from typing import NoReturn

from pahq.errors import PahqError


class Arguments(argparse.ArgumentParser):
    """argparse's parser, which raises PahqError for what it cannot read: no lines of usage, no exit."""

    def error(self, message: str) -> NoReturn:
        raise PahqError(f"{self.prog}: {message} (--help lists what it takes)")
