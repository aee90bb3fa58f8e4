"""Process of a command: its start time and the wait policy of its threads. No heavy imports."""

import os


def begun() -> float:
    """`time.time()` at the start of this process, before its imports."""
    import psutil  # type: ignore[import-untyped]

    return psutil.Process().create_time()


def let_waiting_threads_sleep() -> None:
    """Sets the OpenMP wait policy to passive, unless the user has set it; for use before the import of torch.

    On two cores with two other busy programs, spinning threads made a training step 15 times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
