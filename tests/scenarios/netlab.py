"""Two networks of our own and the way between them, which delays, loses, repeats and swallows packets as told.

`resolver` and `upstream` are network namespaces, each with a TUN device; whatever one sends to the other passes
through a process of ours. Many kernels that tests run on have no netem. The process is this file, run as a program
under `unshare`; it opens sockets in either namespace for the test, so that upstreams and clients stay in the test.
"""

import array
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Literal, Self

Place = Literal["resolver", "upstream"]

DEVICE = "way0"
RESOLVER = "192.0.2.1"
UPSTREAMS = ("198.51.100.53", "198.51.100.54")
NETWORKS = {"resolver": "192.0.2.0/24", "upstream": "198.51.100.0/24"}
CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MESSAGE = 4096  # octets of one order to the process, and of its report
START_S = 10.0


@dataclass(frozen=True, slots=True)
class Faults:
    """What befalls the packets on their way, in both directions alike."""

    delay_s: float = 0.0
    jitter_s: float = 0.0  # up to so much more or less, for each packet alone: so they overtake each other
    loss: float = 0.0  # the share of packets that get lost
    repeated: float = 0.0  # the share of packets that come twice
    swallows_above: int = 65535  # octets of IP packet; larger ones vanish, and no ICMP says so
    swallows_fragments: bool = False  # as many firewalls do
    swallows: tuple[str, ...] = ()  # addresses that nothing reaches and nothing comes from


NONE = Faults()


class Lab:
    """The two networks. Use it as a context manager; its end closes everything that was opened in them.

    Raises OSError where the kernel refuses.
    """

    def __init__(self, mtu: int = 1500, seed: int = 20230317) -> None:
        """mtu: of both ends of the way."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = ("unshare", "--user", "--map-root-user", "--net", sys.executable, __file__)
        with theirs:
            self._process = subprocess.Popen(
                [*words, str(theirs.fileno()), str(mtu), str(seed)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                text=True,
            )
        self._orders = ours
        self._orders.settimeout(START_S)

    def __enter__(self) -> Self:
        try:
            self._order("hello")
        except OSError:
            self._process.kill()
            output, _ = self._process.communicate()
            raise OSError(output.strip() or "no network namespaces here") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._orders.close()  # which it takes as its end
        self._process.communicate(timeout=START_S)

    @property
    def through(self) -> Sequence[str]:
        """A program that runs another one in the resolver's network."""
        return ("nsenter", f"--target={self._process.pid}", "--user", "--net", "--preserve-credentials")

    def set(self, faults: Faults) -> None:
        """Let this befall all packets that are sent from now on."""
        self._order("faults", **asdict(faults))

    def socket(self, place: Place, kind: socket.SocketKind) -> socket.socket:
        """Open an IPv4 socket in one of the networks."""
        return socket.socket(fileno=self._order("socket", place=place, kind=int(kind))[1][0])

    def ip(self, place: Place, *words: str) -> None:
        """Run `ip` in one of the networks; fail if it fails."""
        self._order("ip", place=place, words=words)

    def counts(self) -> dict[str, int]:
        """How many packets were carried, lost, repeated and swallowed so far."""
        counts: dict[str, int] = self._order("counts")[0]
        return counts

    def _order(self, order: str, **more: object) -> tuple[Any, list[int]]:
        self._orders.send(json.dumps({"order": order, **more}).encode())
        octets, descriptors, _, _ = socket.recv_fds(self._orders, MESSAGE, 1)
        if not octets:
            raise OSError("the process that is the way has ended")
        report = json.loads(octets)
        assert "error" not in report, report["error"]
        return report.get("result"), descriptors


# What runs in the other process


def enter(network: int) -> None:
    """Make a network namespace, by its descriptor, this thread's own."""
    _checked(ctypes.CDLL(None, use_errno=True).setns(network, CLONE_NEWNET))


def enter_new() -> int:
    """Make a new network namespace this thread's own, and return its descriptor."""
    _checked(ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET))
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def ip(*words: str) -> None:
    """Run `ip` here."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def device(mtu: int, own: Sequence[str], other: str) -> int:
    """Make the TUN device of this network, with addresses of its own and a route to the other; its descriptor."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    ip("link", "set", "lo", "up")
    ip("link", "set", DEVICE, "up", "mtu", str(mtu), "txqueuelen", "10000")
    for address in own:
        ip("address", "add", f"{address}/32", "dev", DEVICE)
    ip("route", "add", other, "dev", DEVICE)
    return tun


class Way:
    """Carries packets between the two devices, and does as it is told."""

    def __init__(self, orders: socket.socket, mtu: int, seed: int) -> None:
        self._orders = orders
        self._chance = random.Random(seed)
        self._faults = NONE
        self._late: list[tuple[float, int, int, bytes]] = []  # due, number, where to, packet
        self._counts = {"carried": 0, "lost": 0, "repeated": 0, "swallowed": 0}
        self._number = 0
        resolver = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        upstream = enter_new()
        to_upstream = device(mtu, UPSTREAMS, NETWORKS["resolver"])
        enter(resolver)  # for good: it is where --target leads
        to_resolver = device(mtu, [RESOLVER], NETWORKS["upstream"])
        self._networks = {"resolver": resolver, "upstream": upstream}
        self._other_end = {to_upstream: to_resolver, to_resolver: to_upstream}

    def run(self) -> None:
        """Carry until the test closes its end."""
        while True:
            wait_s = max(0.0, self._late[0][0] - time.monotonic()) if self._late else None
            ready, _, _ = select.select([self._orders.fileno(), *self._other_end], [], [], wait_s)
            for each in ready:
                if each in self._other_end:
                    self._take(each)
                elif not self._obey():
                    return
            self._deliver()

    def _take(self, end: int) -> None:
        for _ in range(64):
            try:
                packet = os.read(end, 65535)
            except BlockingIOError:
                return
            if packet[0] >> 4 == 4:  # the kernel announces itself over IPv6, too
                self._send(self._other_end[end], packet)

    def _send(self, end: int, packet: bytes) -> None:
        faults, chance = self._faults, self._chance
        if _is_swallowed(packet, faults):
            self._counts["swallowed"] += 1
            return
        if chance.random() < faults.loss:
            self._counts["lost"] += 1
            return
        copies = 2 if chance.random() < faults.repeated else 1
        self._counts["repeated"] += copies - 1
        for _ in range(copies):
            self._number += 1
            late_s = max(0.0, faults.delay_s + chance.uniform(-faults.jitter_s, faults.jitter_s))
            heapq.heappush(self._late, (time.monotonic() + late_s, self._number, end, packet))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._late and self._late[0][0] <= now:
            _, _, end, packet = heapq.heappop(self._late)
            try:
                os.write(end, packet)
                self._counts["carried"] += 1
            except OSError:  # the device is down
                self._counts["swallowed"] += 1

    def _obey(self) -> bool:
        octets = self._orders.recv(MESSAGE)
        if not octets:
            return False
        words = json.loads(octets)
        descriptors: list[int] = []
        report: dict[str, object] = {}
        try:
            match words.pop("order"):
                case "faults":
                    self._faults = Faults(**words)
                case "socket":
                    descriptors.append(self._in(words["place"], lambda: _opened(words["kind"])))
                case "ip":
                    self._in(words["place"], lambda: ip(*words["words"]))
                case "counts":
                    report["result"] = self._counts
        except (OSError, subprocess.CalledProcessError) as error:
            report["error"] = f"{error} {getattr(error, 'stderr', '')}"
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._orders.sendmsg([json.dumps(report).encode()], rights)
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _in(self, place: str, do: Any) -> Any:
        enter(self._networks[place])
        try:
            return do()
        finally:
            enter(self._networks["resolver"])


def _is_swallowed(packet: bytes, faults: Faults) -> bool:
    addresses = {socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])}
    is_fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF != 0  # more to come, or not the first (RFC 791)
    return (
        len(packet) > faults.swallows_above
        or (is_fragment and faults.swallows_fragments)
        or not addresses.isdisjoint(faults.swallows)
    )


def _opened(kind: int) -> int:
    return socket.socket(socket.AF_INET, kind).detach()


if __name__ == "__main__":
    Way(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])).run()
