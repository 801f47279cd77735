"""What a test run says about tests it skipped.

Tests that call a program which is not installed skip with "needs PROGRAM (Debian
package PACKAGE)": the run ends with a line for each such program. With
DNSFILTER_TEST_REQUIRE=1, as in continuous integration, any skip fails the run.
"""

import os
import re
from collections import Counter
from collections.abc import Generator

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


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Skips(required=os.environ.get("DNSFILTER_TEST_REQUIRE") == "1"))
