"""Reloads that go wrong behind the build: what is in force is what is said to be."""

import asyncio
from pathlib import Path

from dnsfilter import child
from dnsfilter.core.index import Index
from dnsfilter.reloading import Reloader
from dnsfilter.settings import Request
from dnsfilter.snapshot import Head


def test_a_policy_that_could_not_be_put_in_force_is_tried_again_by_the_next_reload(tmp_path: Path) -> None:
    file = tmp_path / "dnsfilter.yaml"
    written = "upstreams: [192.0.2.53]\nlists: {{ban: {{domains: [{}]}}}}\ngroups: {{default: {{block: [ban]}}}}\n"
    file.write_text(written.format("banned.example"))
    request = Request(config=str(file), state=str(tmp_path / "state"), keeps=True)
    adopted: list[str] = []
    is_broken = True

    async def adopt(head: Head, index: Index) -> int:
        if is_broken:
            raise OSError(2, "the file of certificates has gone")
        adopted.append(head.hash)
        return 2

    async def work() -> None:
        nonlocal is_broken
        built = await child.build(request, is_nice=False)
        head, _ = await child.load(built.path)
        reloader = Reloader(request, built, head, adopt)
        file.write_text(written.format("app.example"))
        assert "error" in await reloader.reload()
        is_broken = False
        told = await reloader.reload()
        assert "error" not in told
        assert adopted == [told["policy"]["hash"]]

    asyncio.run(work())
