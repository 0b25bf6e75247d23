"""Benchmarks of the platform beside other gateways, in one run: `make bench`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # benchmarks use the support modules of the tests
