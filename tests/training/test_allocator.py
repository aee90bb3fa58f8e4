"""Freed memory is kept, where the allocator can."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from daa_diffusers.training.allocator import keep_freed_memory
assert {keep} is False or keep_freed_memory()
for _ in range(2):
    torch.zeros(2**24)  # 64 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.zeros(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is asked")
def test_freed_memory_is_not_cleared_again_by_the_system():
    def faults(keep):
        code = FAULTS.format(keep=keep)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)

    # where memory is short the system takes pages back now and then
    assert min(faults(True) for _ in range(3)) < 0.2 * faults(False)
