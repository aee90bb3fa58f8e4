"""Suppression of library warnings in several threads at once."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_silent = 0
_context: warnings.catch_warnings | None = None


@contextmanager
def without_warnings() -> Iterator[None]:
    """Context that ignores warnings (such as those on damaged metadata) until the last thread leaves it.

    `warnings.catch_warnings` alone is not sufficient: it restores the filters present when it was entered, which may be
    those of another thread's context.
    """
    global _silent, _context
    with _lock:
        if _silent == 0:
            _context = warnings.catch_warnings()
            _context.__enter__()
            warnings.simplefilter("ignore")
        _silent += 1
    try:
        yield
    finally:
        with _lock:
            _silent -= 1
            if _silent == 0 and _context is not None:
                _context.__exit__(None, None, None)
                _context = None
