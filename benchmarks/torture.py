"""The long torture run: the test generators with large counts. python -m benchmarks.torture [--kills N] [--examples N].

The default test run uses small counts; this one raises them through the environment and runs the same tests.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

FAMILIES = (
    "tests/integration/test_resume.py",
    "tests/unit/test_image.py",
    "tests/unit/test_geometry.py",
    "tests/contract/test_bad_datasets.py",
)


def main() -> int:
    """Run the families and return pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="SIGKILLs of a training at random moments")
    parser.add_argument("--examples", type=int, default=10_000, help="examples of each property test")
    args = parser.parse_args()
    environment = {**os.environ, "SICCS_KILLS": str(args.kills), "SICCS_EXAMPLES": str(args.examples)}
    command = [sys.executable, "-m", "pytest", "-o", "timeout=0", *FAMILIES]
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
