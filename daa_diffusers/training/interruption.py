"""Interruption of a run by SIGTERM or Ctrl-C, with a checkpoint."""

import ctypes
import os
import signal
import sys
import threading
from types import FrameType

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>: signal to this process at the end of its parent


class Interruption:
    """Context in which SIGTERM and Ctrl-C only set `signal`; a second Ctrl-C stops the process at once, as usual.

    `accelerate launch` does not forward a SIGTERM to a single training process. On Linux, the end of the launcher
    therefore counts as a SIGTERM, so that no run continues unattended.

    Attributes:
        signal: number of the received signal; None if there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def _request(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # Python allows signal handlers there only
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._request)
            is_launched = "ACCELERATE_DYNAMO_BACKEND" in os.environ  # set by every `accelerate launch`
            if sys.platform.startswith("linux") and is_launched:
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()
