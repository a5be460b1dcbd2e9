"""Ends a command by one line where Ctrl-C comes while it still imports; wavflow/cli.py sees to all that comes after.

It is the first import of the package, since the others take seconds.
"""

import os
import sys
from types import TracebackType


def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Prints what ended the process, as `sys.excepthook`."""
    if issubclass(kind, KeyboardInterrupt):
        print("wavflow: interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


if sys.argv and (sys.argv[0] == "-m" or os.path.basename(sys.argv[0]).startswith("wavflow-")):  # not where it is a library
    sys.excepthook = hook
