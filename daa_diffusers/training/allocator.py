"""C allocator of a training process, set to keep freed memory for the next step."""

import ctypes
import sys

# <malloc.h> of glibc
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Asks the C allocator to keep freed memory for the next step instead of returning it to the system.

    Every training step allocates and frees the same gigabytes. If the memory is returned, the system clears every page
    again, which takes about a quarter of the joint step's time at the official size (`benchmarks/joint_step.py`). Peak
    memory is unchanged. The setting applies to the whole process.

    Returns:
        Whether the options were set; False if the allocator is not glibc's.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    # no separate mappings, which are returned when freed; and never return the top of the heap
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
