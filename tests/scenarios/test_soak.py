"""A short soak: every kind of client and question, failing upstreams and changing policy, each answer judged anew."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "bench" / "soak"


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_half_a_minute_of_everything_at_once_shows_no_wrong_answer() -> None:
    done = subprocess.run(
        [sys.executable, str(SOAK), "--seconds", "30", "--seed", "7"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "MISMATCH" not in done.stdout
    assert "Traceback" not in done.stdout, done.stdout
