"""Start time of the process, wait policy of its threads, and Ctrl-C, without slow imports."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

INTERRUPTED = 130  # exit status after Ctrl-C
_interrupted = False  # whether Ctrl-C was pressed since the start of `run`


def begun() -> float:
    """Returns the time at which this process started, on the clock of `time.time()`; it is earlier than any import."""
    import psutil  # type: ignore[import-untyped]

    return psutil.Process().create_time()


def let_waiting_threads_sleep() -> None:
    """Sets the OpenMP wait policy to passive, unless the user has set it. Call it before torch is imported.

    On two cores shared with two other busy programs, spinning threads made a training step 15 times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def run(command: Callable[[], int], *, is_last: bool) -> int:
    """Runs `command` and returns its exit status; after Ctrl-C, `INTERRUPTED`, with a line on standard error.

    If Ctrl-C is ignored, as in a background process of a script, it stays ignored.

    Args:
        command: function that is called once; it returns `INTERRUPTED` if it has reported an interruption itself.
        is_last: whether the process ends afterwards; Ctrl-C then ends it without a traceback.
    """
    global _interrupted
    _interrupted = False
    handler, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    handles_ctrl_c = handler is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if handles_ctrl_c:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _ignore_lost_interrupt
    try:
        status = command()
        if status != INTERRUPTED:
            check_interrupted()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        status = INTERRUPTED
    finally:
        if handles_ctrl_c:
            sys.unraisablehook = hook
            signal.signal(signal.SIGINT, signal.SIG_DFL if is_last else handler)
    return status


def check_interrupted() -> None:
    """Raises KeyboardInterrupt if Ctrl-C was pressed since the start of `run`.

    The KeyboardInterrupt of the signal handler is lost if it is raised in a finalizer, or in a library that catches all
    exceptions.
    """
    if _interrupted:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Handles Ctrl-C: sets `_interrupted`, and raises KeyboardInterrupt."""
    global _interrupted
    _interrupted = True
    raise KeyboardInterrupt


def _ignore_lost_interrupt(lost: Any) -> None:
    """Hook for `sys.unraisablehook` that ignores a lost KeyboardInterrupt, as `check_interrupted` raises it again."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
