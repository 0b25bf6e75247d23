"""HTTP fuzzing with more examples than the tests, different in each run: `python -m bench.fuzz [EXAMPLES]`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = 500
"""Requests to each endpoint: about half an hour on two cores."""


def main(examples: int = EXAMPLES) -> int:
    """Run the tests of tests/fuzzing with this many requests to each endpoint; return pytest's exit code."""
    print(f"{examples} requests to each endpoint; a request that breaks a service is printed as a curl command")
    folder = Path(__file__).parents[1] / "tests" / "fuzzing"
    environment = {**os.environ, "DRW_FUZZ_EXAMPLES": str(examples)}
    command = [sys.executable, "-m", "pytest", str(folder / "test_http.py"), "-v", "--timeout", "3600"]
    return subprocess.run(command, env=environment, cwd=folder.parents[1], check=False).returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.fuzz", description="Generated requests; none may be a 5xx.")
    parser.add_argument("examples", nargs="?", type=int, default=EXAMPLES, help="requests for each endpoint")
    sys.exit(main(parser.parse_args().examples))
