"""The service that most scenarios share, and a way to start others."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.client import Address
from tests.scenarios.expect import LISTED, check_clean, policy
from tests.scenarios.service import Service
from tests.scenarios.upstream import Upstream

Start = Callable[..., Service]


@pytest.fixture(scope="session")
def shared_upstream() -> Iterator[Upstream]:
    """The shared service's upstream. At its end every query that came is checked to have been a plain one."""
    with Upstream() as upstream:
        yield upstream
        check_clean(upstream)


@pytest.fixture(scope="session")
def shared_service(shared_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that neither break its upstream nor reload it."""
    with Service(tmp_path_factory.mktemp("shared"), policy(shared_upstream)) as service:
        yield service


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    """An upstream for the service of one module alone."""
    with Upstream() as upstream:
        yield upstream
        check_clean(upstream)


@pytest.fixture
def upstream(shared_upstream: Upstream, shared_service: Service) -> Upstream:
    """The shared upstream; tests say what it answers under names of their own."""
    return shared_upstream


@pytest.fixture
def service(shared_service: Service) -> Iterator[Service]:
    """The shared service, which has to be alive after the test."""
    yield shared_service
    shared_service.check_alive()


@pytest.fixture
def server(service: Service) -> Address:
    """The shared service's DNS address."""
    return service.dns


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a service of the test's own: `start(config, dns=[...])`; it ends with the test."""
    with ExitStack() as stack:
        count = 0

        def run(config: dict[str, Any], **options: Any) -> Service:
            nonlocal count
            count += 1
            directory = tmp_path / str(count)
            directory.mkdir()
            return stack.enter_context(Service(directory, config, **options))

        yield run


@pytest.fixture
def upstreams() -> Iterator[Callable[[], Upstream]]:
    """Start further upstreams: each call gives one; they end with the test."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Upstream())


@pytest.fixture
def listed_stays_here(upstream: Upstream) -> Iterator[None]:
    """Nothing at or below the listed name goes upstream during the test."""
    before = len(upstream.queries(LISTED, below=True))
    yield
    assert len(upstream.queries(LISTED, below=True)) == before, "a listed name went upstream"
