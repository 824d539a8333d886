"""Runs the tests under `sharded/` with eight devices, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def test_sharded() -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(TESTS / "sharded")]
    # XLA refuses a number of devices that is set twice.
    environ = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    run = subprocess.run(
        command,
        cwd=TESTS.parent,
        env=environ | {"LCONV_TEST_DEVICES": "8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
