"""Opens the sockets that clients come to, and says in an admin's words why one cannot be had. Knows no DNS."""

import errno
import logging
import os
import resource
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from dnsfilter.settings import Endpoint

log = logging.getLogger(__name__)

RECEIVE_BUFFER = 4 * 2**20  # octets asked for; net.core.rmem_max may cap it
SEGMENT = 1_220  # octets of TCP: fits every path of IPv6, as nobody may tell that a way takes less than it says
BACKLOG = 512
DESCRIPTORS = 65_536  # wanted: pools of upstream sockets, and connections
_PORT_TRIES = 20

# Linux values that Python 3.11 does not name.
_IP_PKTINFO = 8
_IP_FREEBIND = 15
_IPV6_FREEBIND = 78


class CannotListen(Exception):
    """An address that cannot be served; the message says which, why, and the remedies."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One address, its two sockets, and the port really bound."""

    address: Endpoint
    udp: socket.socket
    tcp: socket.socket

    def close(self) -> None:
        """Close both sockets."""
        self.udp.close()
        self.tcp.close()


def endpoint_text(endpoint: Endpoint) -> str:
    """Return address and port as they are written in a configuration."""
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def open_all(endpoints: Sequence[Endpoint]) -> list[Listener]:
    """Open UDP and TCP on every address, all or none. Raises CannotListen."""
    with ExitStack() as opened:
        listeners = []
        for endpoint in endpoints:
            listener = _open(endpoint)
            opened.callback(listener.close)
            listeners.append(listener)
        opened.pop_all()
        return listeners


def _open(endpoint: Endpoint) -> Listener:
    host, port = endpoint
    for _ in range(_PORT_TRIES):
        udp = _bind(endpoint, socket.SOCK_DGRAM)
        chosen = (host, udp.getsockname()[1])
        try:
            return Listener(chosen, udp, _bind(chosen, socket.SOCK_STREAM))
        except CannotListen:
            udp.close()
            if port:  # a port that was chosen for us may be free for UDP alone: try another
                raise
    raise CannotListen(f"{host}: no port is free for both UDP and TCP")


def _bind(endpoint: Endpoint, kind: socket.SocketKind) -> socket.socket:
    host, port = endpoint
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_DGRAM:
            _prepare_udp(sock, host, family)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        address = socket.getaddrinfo(host, port, family, kind, flags=socket.AI_NUMERICHOST)[0][4]
        try:
            sock.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            # A virtual address may come later, with a failover: it must work then without a restart.
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            sock.bind(address)
            if kind == socket.SOCK_DGRAM:
                log.warning("this machine does not have the address %s yet; it is served once it comes", host)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
            sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise CannotListen(_why(endpoint, kind, error)) from None
    return sock


def _prepare_udp(sock: socket.socket, host: str, family: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    if host == "0.0.0.0":
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    elif host == "::" and family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)


def _why(endpoint: Endpoint, kind: socket.SocketKind, error: OSError) -> str:
    where = f"{endpoint_text(endpoint)} ({'UDP' if kind == socket.SOCK_DGRAM else 'TCP'})"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{where} is in use by another program, often systemd-resolved, dnsmasq or a second dnsfilter\n"
            f"  find it with `ss -lpn 'sport = :{endpoint[1]}'` and stop it, or write another address: listen.dns"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"{where}: this user may not listen on ports below 1024\n"
            "  give the service CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE; "
            "containers: cap-add NET_BIND_SERVICE), or write a higher port: listen.dns"
        )
    return f"{where}: {error.strerror}\n  write an address of this machine: listen.dns"


def receive_buffer(sock: socket.socket) -> int:
    """Return the octets of receive buffer that the kernel really granted (it counts double)."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def raise_descriptor_limit() -> None:
    """Take as many descriptors as the hard limit allows, up to DESCRIPTORS."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def descriptors() -> int:
    """Return how many descriptors this process may open."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def drops(sockets: Sequence[socket.socket]) -> int:
    """Return how many datagrams the kernel dropped because these sockets' buffers were full."""
    inodes = {str(os.fstat(sock.fileno()).st_ino) for sock in sockets}
    return sum(dropped for inode, dropped in _kernel_drops() if inode in inodes)


def _kernel_drops() -> Iterator[tuple[str, int]]:
    for path in (Path("/proc/net/udp"), Path("/proc/net/udp6")):
        try:
            lines = path.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            yield columns[9], int(columns[-1])
