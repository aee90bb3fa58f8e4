"""The process of a command: when it began, and how its threads wait. Imports nothing heavy."""

import os


def begun() -> float:
    """`time.time()` at which this process was started: its imports count as well."""
    import psutil  # type: ignore[import-untyped]

    return psutil.Process().create_time()


def let_waiting_threads_sleep() -> None:
    """Sets OpenMP, before torch is imported, to let waiting threads sleep; a setting of the user stays.

    Beside two busy programs on two cores, threads that spin made a step of training 15 times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
