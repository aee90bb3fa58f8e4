"""Return of freed memory to the system between the stages of a photo."""

import contextlib
import ctypes


def return_freed_memory() -> None:
    """Returns freed memory that glibc keeps to the system, for all threads; other C libraries do so automatically."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
