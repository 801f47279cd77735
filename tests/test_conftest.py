"""The run's report of skipped tests, seen by running pytest in a folder with a copy of conftest.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
ROOT = CONFTEST.parent.parent

SKIPPING = """
import pytest

@pytest.mark.parametrize("n", [1, 2])
def test_asks_with_dig(n):
    pytest.skip("needs dig (Debian package bind9-dnsutils)")

@pytest.fixture
def kdig():
    pytest.skip("needs kdig (Debian package knot-dnsutils), for DNS over TLS")

def test_asks_with_kdig(kdig):
    pass

@pytest.mark.skip(reason="not on a Sunday")
def test_of_weekdays():
    pass

def test_that_passes():
    pass
"""
PASSING = """
import pytest

@pytest.mark.xfail(reason="known")
def test_expected_failure():
    assert False

def test_that_passes():
    pass
"""
MODULE = """
import pytest
pytest.skip("needs ss (Debian package iproute2)", allow_module_level=True)
"""


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> subprocess.CompletedProcess[str]:
    """Run pytest over files of the given texts. Parameters: required or not, then the texts."""
    required, *texts = request.param
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    (tmp_path / "conftest.py").write_bytes(CONFTEST.read_bytes())
    for number, text in enumerate(texts):
        (tmp_path / f"test_{number}.py").write_text(text)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "DNSFILTER_"))}
    env |= {"PYTHONPATH": str(ROOT)} | ({"DNSFILTER_TEST_REQUIRE": "1"} if required else {})
    command = [sys.executable, "-m", "pytest", str(tmp_path)]
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("run", [pytest.param((False, SKIPPING), id="nothing required")], indirect=True)
def test_the_run_ends_with_a_line_for_each_missing_program(run: subprocess.CompletedProcess[str]) -> None:
    assert run.stdout.splitlines()[-2:] == [
        "not installed: dig, Debian package bind9-dnsutils; 2 tests skipped",
        "not installed: kdig, Debian package knot-dnsutils; 1 test skipped",
    ]
    assert run.returncode == 0


@pytest.mark.parametrize("run", [pytest.param((True, SKIPPING), id="all required")], indirect=True)
def test_any_skip_fails_a_run_that_requires_all(run: subprocess.CompletedProcess[str]) -> None:
    assert run.returncode == 1
    assert run.stdout.splitlines()[-6:] == [
        "not installed: dig, Debian package bind9-dnsutils; 2 tests skipped",
        "not installed: kdig, Debian package knot-dnsutils; 1 test skipped",
        *(
            f"skipped, though DNSFILTER_TEST_REQUIRE=1: test_0.py::{test}"
            for test in (
                "test_asks_with_dig[1]: needs dig (Debian package bind9-dnsutils)",
                "test_asks_with_dig[2]: needs dig (Debian package bind9-dnsutils)",
                "test_asks_with_kdig: needs kdig (Debian package knot-dnsutils), for DNS over TLS",
                "test_of_weekdays: not on a Sunday",
            )
        ),
    ]


@pytest.mark.parametrize("run", [pytest.param((True, PASSING, MODULE), id="all required")], indirect=True)
def test_a_module_that_skips_itself_fails_it_too(run: subprocess.CompletedProcess[str]) -> None:
    assert run.returncode == 1
    assert "skipped, though DNSFILTER_TEST_REQUIRE=1: test_1.py: needs ss (Debian package iproute2)" in run.stdout


@pytest.mark.parametrize("run", [pytest.param((True, PASSING), id="all required")], indirect=True)
def test_an_expected_failure_is_no_skip(run: subprocess.CompletedProcess[str]) -> None:
    assert run.returncode == 0
    assert run.stdout.splitlines()[-1].startswith("=")
