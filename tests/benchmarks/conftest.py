"""The folder of the benchmarks among those that Python imports from, as where one of them is run."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
