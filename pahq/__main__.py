"""The command line, ``pahq`` or ``python -m pahq``: reads what was typed, and says in one sentence what is wrong.

torch is imported only once everything that was typed has been checked.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Sequence

import typer

from pahq.commandline.application import application
from pahq.commandline.output import for_this_process
from pahq.errors import PahqError
from pahq.files.fulldisk import told_if_full


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 a disagreement (verify), 2 bad input in one sentence, 130 interrupted."""
    if argv is None:  # a process of its own: the objects that imports make stay, and looking at each again takes time
        gc.set_threshold(200_000, 20, 20)
        for_this_process()
        if "_PAHQ_COMPLETE" in os.environ:  # a shell asks for words
            application().main(prog_name="pahq")
    warnings = logging.StreamHandler()
    warnings.setLevel(logging.WARNING)  # of its own: Hydra lowers that of the root, and would be told of twice
    logging.basicConfig(level=logging.WARNING, format="pahq: %(message)s", handlers=[warnings])
    try:
        with told_if_full():
            status = _run(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()  # here, and not as Python ends, where nobody could catch what it raises
            return status
    except PahqError as error:
        return _fail(str(error))
    except BrokenPipeError:  # whoever reads, `head` say, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None or error.strerror is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}")
    except MemoryError:  # of a search precheck.py tells; here of whatever else, imports among it
        return _fail("the machine's memory ran out; what is finished is kept, and the same command goes on")
    except KeyboardInterrupt:
        sys.stderr.write("pahq: interrupted; the same command goes on where this one stopped\n")
        return 130


def _run(words: list[str]) -> int:
    commands = application()
    try:
        with commands.make_context("pahq", words) as context:
            return commands.invoke(context) or 0
    except typer.Exit as done:
        return done.exit_code


def _fail(told: str) -> int:
    sys.stderr.write(f"pahq: error: {told}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
