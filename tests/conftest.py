"""What a test run says about tests it skipped, and tests that need the machine to themselves.

Tests that call a program which is not installed skip with "needs PROGRAM (Debian
package PACKAGE)": the run ends with a line for each such program. With
DNSFILTER_TEST_REQUIRE=1, as in continuous integration, any skip fails the run.
"""

import fcntl
import os
import re
import tempfile
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

MISSING_PROGRAM = re.compile(r"needs (\S+) \(Debian package ([^)\s]+)\)")


class Skips:
    """Collects the skips of one run, reports them after everything else."""

    def __init__(self, *, required: bool) -> None:
        self._required = required
        self._skips: list[tuple[str, str]] = []  # test or module, reason

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):  # an expected failure is a skip to pytest
            self._add(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:  # a whole module; counts as one
            self._add(report)

    def _add(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        self._skips.append((report.nodeid, reason.removeprefix("Skipped: ")))

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # around the terminal's own summary, so that these lines are the last
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        yield
        terminal = session.config.pluginmanager.get_plugin("terminalreporter")
        programs = Counter(found.groups() for _, reason in self._skips if (found := MISSING_PROGRAM.match(reason)))
        lines = [
            f"not installed: {program}, Debian package {package}; {count} {'test' if count == 1 else 'tests'} skipped"
            for (program, package), count in sorted(programs.items())
        ]
        if self._required and self._skips:
            lines += [f"skipped, though DNSFILTER_TEST_REQUIRE=1: {test}: {reason}" for test, reason in self._skips]
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if terminal is not None:
            for line in lines:
                terminal.write_line(line, red=self._required)


class Turns:
    """Lets a test that is marked `alone` run while no other process of this run has a test running.

    Who waits to be alone holds the gate, so that no other test begins and it is not kept waiting for ever.
    """

    def __init__(self, run: str) -> None:
        """run: what all processes of this run have in common."""
        self._gate, self._room = (Path(tempfile.gettempdir()) / f"dnsfilter-{run}-{name}" for name in ("gate", "room"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # around the time limit of a test: waiting is not its own time
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        is_alone = item.get_closest_marker("alone") is not None
        with self._gate.open("w") as gate, self._room.open("w") as room:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
            if not is_alone:
                fcntl.flock(gate, fcntl.LOCK_UN)
            return (yield)

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        if not hasattr(config, "workerinput"):
            for path in (self._gate, self._room):
                path.unlink(missing_ok=True)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alone: measures times or load, and has the machine to itself")
    config.addinivalue_line("markers", "slow: more of the same; `make test TESTARGS='-m slow'` runs them")
    config.pluginmanager.register(Skips(required=os.environ.get("DNSFILTER_TEST_REQUIRE") == "1"))
    config.pluginmanager.register(Turns(getattr(config, "workerinput", {}).get("testrunuid", str(os.getpid()))))
