"""An asyncio loop whose clock is a number: it jumps to the next timer when no socket has anything to say.

What goes over the loopback interface is there at once, so a wait of many seconds takes none.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

SETTLE_S = 0.002  # really waited before the clock jumps: a TCP segment on its way is not overtaken


class JumpingSelector(selectors.DefaultSelector):
    """Where the loop would sleep, its clock is put forward instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(10.0)  # nothing but a socket can wake it
        ready = super().select(min(timeout, SETTLE_S))
        if not ready:
            self.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = JumpingSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on a loop of its own; an exception in a callback fails the test, and so does a task left over."""
    faults: list[str] = []

    async def checked() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: faults.append(str(context.get("exception") or context)))
        result = await work()
        await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, left
        return result

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        result = runner.run(checked())
    assert not faults, faults
    return result
