"""DNS over HTTPS to one upstream: queries as POST requests over HTTP/2 (RFC 8484, RFC 9113).

Needs the h2 library, so nothing but an https:// upstream imports this module. h2 owns HTTP/2;
what a server may cost us is bounded before octets reach it.
"""

import asyncio
import errno
import logging
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from h2 import events
from h2.errors import ErrorCodes
from h2.exceptions import H2Error

from dnsfilter.core.wire import build
from dnsfilter.core.wire.framing import MAX_MESSAGE
from dnsfilter.core.wire.response import answers
from dnsfilter.upstream import http2
from dnsfilter.upstream.dial import CONNECT_S, CannotConnect, Dialler
from dnsfilter.upstream.hosts import Hosts
from dnsfilter.upstream.stream import Receiver
from dnsfilter.upstream.tls import Tls

T = TypeVar("T", bound=Hashable)

MEDIA_TYPE = b"application/dns-message"
ID = b"\0\0"  # the same for every query, so that caches on the way find it again (RFC 8484 section 4.1)
TRIES = 2  # a server may close a connection just as we ask
CONNECTIONS = 2  # in use, where one has no room
DRAINING = 6  # beside those, that still wait for their last responses
# At once on a connection, whatever more the server allows (RFC 9113 section 6.5.2 wants no fewer). Knot Resolver 5
# tells no limit, and stops reading for ever above this one.
MOST_STREAMS = 100
TICK_S = 1.0  # how exactly idle, dead and stuck connections are noticed
DEAD_TICKS = 2  # after a PING without an answer
QUICK_S = 1.0  # who is forgotten earlier says nothing of the server
WARN_EVERY_S = 60.0

_PATH = "is the path right (/dns-query, as a rule), and may we ask it?"
_REMEDIES = {  # by the first digit of a status
    b"3": "redirects are not followed, so write the URL that it leads to",
    b"5": "it has trouble of its own, or is busy",
}

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Request(Generic[T]):
    """One query, until its response came or nobody waits any more."""

    token: T
    question: bytes
    octets: bytes  # the message
    tries: int = 0
    stream: int = 0
    connection: "_Connection[T] | None" = None  # None: it waits for one
    since: float = 0.0  # the loop's time of sending
    sent: int = 0  # octets of the message
    body: bytearray | None = None  # of the response, once its headers were right


class DohPool(Generic[T]):
    """What is asked of one upstream, and its connections; the first is opened when the first query goes there."""

    def __init__(
        self,
        host: str,
        port: int,
        path: str,
        loop: asyncio.AbstractEventLoop,
        receiver: Receiver[T],
        hosts: Hosts,
        tls: Tls,
        *,
        idle_s: float = 10.0,
        connect_s: float = CONNECT_S,
        most: int = CONNECTIONS,
        most_waiting: int = 1000,
        authority: str,
    ) -> None:
        """host: a name or an address to connect to. authority: as the URL has it, with a port that is not 443.

        idle_s: after which a connection that is not needed is closed. most: connections in use.
        """
        self._loop = loop
        self._receiver = receiver
        self._dialler = Dialler(host, port, loop, hosts, tls, connect_s)
        self._tls = tls
        self._most, self._most_waiting = most, most_waiting
        self.idle_s, self.stuck_s = idle_s, 2 * connect_s
        self.name = f"https://{authority}{path}"
        self.headers = (
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", authority.encode("ascii")),
            (b":path", path.encode("ascii")),
            (b"content-type", MEDIA_TYPE),
            (b"accept", MEDIA_TYPE),
            (b"user-agent", b"dnsfilter"),
        )
        self._requests: dict[T, _Request[T]] = {}
        self._queue: OrderedDict[T, _Request[T]] = OrderedDict()  # those that no stream was free for yet
        self._connections: list[_Connection[T]] = []  # with those that finish what they have
        self._connecting: asyncio.Task[None] | None = None
        self._more_at = 0.0  # from then on another connection may be opened beside one without room
        self._is_flushing = False
        self._is_closed = False
        self._warned_at = float("-inf")
        self.ignored = 0  # responses that are no answer to the question

    def send(self, rest: bytes, question: bytes, token: T) -> None:
        """Have a query sent at the end of this turn of the loop; the receiver hears of the outcome, once.

        Raises OSError where the pool is closed, or too many queries wait already.

        rest: the query without its id. question: name, type and class in it.
        """
        if self._is_closed:
            raise OSError(errno.ENOTCONN, "this upstream is no longer configured")
        if len(self._requests) >= self._most_waiting:
            raise OSError(errno.ENOBUFS, "too many queries wait for this upstream")
        request = _Request(token, question, ID + build.padded(rest))
        self._requests[token] = request
        self._queue[token] = request
        self._flush_soon()

    def forget(self, token: T) -> None:
        """Wait no more: a response that comes now is ignored."""
        request = self._requests.pop(token, None)
        if request is None:
            return
        self._queue.pop(token, None)
        if request.connection is not None:
            request.connection.cancel(request)

    def close(self) -> None:
        """Close all connections; nobody hears anything any more."""
        self._is_closed = True
        self._requests.clear()
        self._queue.clear()
        if self._connecting is not None:
            self._connecting.cancel()
        for connection in list(self._connections):
            connection.close()

    # ---- what connections tell ----

    def take(self) -> _Request[T] | None:
        """Return the request that has waited longest, to be sent now."""
        return self._queue.popitem(last=False)[1] if self._queue else None

    @property
    def has_queue(self) -> bool:
        """Whether any request waits for a stream."""
        return bool(self._queue)

    def answered(self, request: _Request[T]) -> None:
        """Take the body of a response with status 200."""
        assert request.body is not None  # noqa: S101
        octets = bytes(request.body)
        if len(octets) < 12:
            self.warn(f"answers with {len(octets)} octets, which is no DNS message: {_PATH}")
            self.failed(request, "http")
        elif not answers(ID, request.question, octets):
            self.ignored += 1
            self.warn("answers another question than the one asked")
            self.failed(request, "tcp")
        elif self._drop(request):
            self._receiver.on_answer(request.token, octets)

    def failed(self, request: _Request[T], reason: str) -> None:
        """Give up on one request."""
        if self._drop(request):
            self._receiver.on_failed(request.token, reason)

    def batch_ended(self) -> None:
        """Everything that had come was handed over."""
        self._receiver.on_batch_end()

    def again(self, requests: Iterable[_Request[T]]) -> None:
        """Send once more what was lost with its connection (RFC 9113 section 8.7); DNS queries do no harm twice."""
        lost = [each for each in requests if self._requests.get(each.token) is each]
        for request in reversed(lost):  # before all that came later
            if request.tries < TRIES and request.body is None:
                request.connection, request.sent = None, 0
                self._queue[request.token] = request
                self._queue.move_to_end(request.token, last=False)
        for request in lost:
            if request.connection is not None:
                self.failed(request, "tcp")
        self._flush_soon()

    def give_up(self, reason: str) -> None:
        """Fail all that wait for a stream, unless another connection may have one."""
        if self._usable:
            return
        for request in list(self._queue.values()):
            self.failed(request, reason)

    def opened(self, connection: "_Connection[T]") -> None:
        """A connection speaks HTTP/2: what waits goes there."""
        self._connections.append(connection)
        self._flush_soon()

    def closed(self, connection: "_Connection[T]") -> None:
        """A connection is gone."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._flush_soon()

    def remember(self, transport: asyncio.Transport) -> None:
        """Keep what makes the next handshake short."""
        self._tls.remember(transport.get_extra_info("ssl_object"))

    def warn(self, text: str) -> None:
        """Tell admins what is wrong, at most once a minute."""
        now = self._loop.time()
        if now - self._warned_at >= WARN_EVERY_S:
            self._warned_at = now
            _log.warning("upstream %s %s", self.name, text)

    # ---- connecting ----

    def _drop(self, request: _Request[T]) -> bool:
        """Take a request off the list; False where nobody waits for it."""
        if self._requests.get(request.token) is not request:
            return False
        del self._requests[request.token]
        self._queue.pop(request.token, None)
        return True

    def _flush_soon(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush)

    @property
    def _usable(self) -> "list[_Connection[T]]":
        return [each for each in self._connections if not each.is_retired]

    def _flush(self) -> None:
        self._is_flushing = False
        usable = self._usable
        for connection in usable:
            connection.turn()
        if self._queue and self._connecting is None and not self._is_closed and self._may_open(len(usable)):
            self._connecting = self._loop.create_task(self._connect())

    def _may_open(self, count: int) -> bool:
        if len(self._connections) >= self._most + DRAINING:
            return False
        if not count:
            return True
        now = self._loop.time()
        if count >= self._most or now < self._more_at:
            return False
        self._more_at = now + self.idle_s  # an upstream that allows but one is not asked all the time
        return True

    async def _connect(self) -> None:
        try:
            await self._dialler.connect(lambda: _Connection(self, self._loop), _refuse)
        except CannotConnect as error:
            self.warn(f"is not asked: {error}")
            self.give_up(error.reason)
            self.batch_ended()
        finally:
            self._connecting = None
        self._flush_soon()  # for what came meanwhile


def _refuse(made: "_Connection[Any]") -> str:
    return "" if made.speaks_http2 else "speaks no HTTP/2: does it offer DNS over TLS (tls://)?"


class _Connection(asyncio.Protocol, Generic[T]):
    """One connection: streams out, responses in. What comes of them is the pool's."""

    def __init__(self, pool: DohPool[T], loop: asyncio.AbstractEventLoop) -> None:
        self._pool = pool
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._h2 = http2.connection()
        self._streams: dict[int, _Request[T]] = {}
        self._unsent: dict[int, _Request[T]] = {}  # whose message waits for the server's window
        self._gate = http2.Gate(loop.time())
        self._most = MOST_STREAMS
        self._is_paused = False
        self.is_retired = False  # finishes what it has, and takes no more
        self._is_over = False
        self.speaks_http2 = False
        self._is_turning = False
        self._has_answered = False
        self._was_used = False
        self._silent_ticks = 0  # since the last octets
        self._asked_since: float | None = None  # the first query since the last response
        self._used_at = loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def turn_soon(self) -> None:
        """Do at the end of this turn of the loop what has become possible in it, and write it in one piece."""
        if not self._is_turning:
            self._is_turning = True
            self._loop.call_soon(self.turn)

    def turn(self) -> None:
        """Send what the server has room for."""
        self._is_turning = False
        if self._is_over:
            return
        if self.is_retired and not self._streams:
            self.close()
            return
        for started in list(self._unsent.values()):
            self._send_body(started)
        room = self._most - len(self._streams)
        while room > 0 and not self._is_paused and not self.is_retired and (request := self._pool.take()) is not None:
            room -= 1
            self._ask(request)
        if self._asked_since is None and self._pool.has_queue:
            self._asked_since = self._loop.time()  # a server that allows no stream is silent too
        self._write()

    def cancel(self, request: _Request[T]) -> None:
        """Nobody waits for this response any more."""
        if self._is_over:
            return
        self._end(request, ErrorCodes.CANCEL)
        if not self._streams and self._loop.time() - request.since < QUICK_S:
            self._asked_since = None  # it was not given the time to answer
        self.turn_soon()

    def close(self) -> None:
        """Close it, as whoever has no more to ask does."""
        if self._is_over or self._transport is None:
            return
        self._h2.close_connection()
        self._write()
        self._finish()
        self._transport.close()

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello, if the server speaks HTTP/2; the pool may use it from now on."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.speaks_http2 = transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        if not self.speaks_http2:
            self._is_over = True
            self._transport.abort()
            return
        self._h2.initiate_connection()
        self._timer = self._loop.call_later(TICK_S, self._tick)
        self._write()
        self._pool.opened(self)

    def data_received(self, data: bytes) -> None:
        """Take frames, as they come."""
        if self._is_over:
            return
        self._silent_ticks = 0
        try:
            for part in self._gate.feed(data, self._loop.time()):
                if isinstance(part, http2.Goaway):
                    self._go_away(part)
                else:
                    self._take(self._h2.receive_data(part))
                if self._is_over:
                    return
        except http2.Flood as error:
            self._abort(f"sends {error}: it was cut off")
            return
        except H2Error as error:
            self._abort(f"breaks the rules of HTTP/2: {error}")
            return
        self.turn_soon()
        self._pool.batch_ended()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Whatever was asked here is asked once more, or lost."""
        if not self._is_over:
            self._retire()
            self._finish()
            self._lose(list(self._streams.values()))

    def pause_writing(self) -> None:
        """Open no more streams to who does not read."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self._is_paused = False
        self.turn_soon()

    # ---- sending ----

    def _ask(self, request: _Request[T]) -> None:
        stream = self._h2.get_next_available_stream_id()
        if stream >= http2.LAST_STREAM - 2:
            self.is_retired = True
        self._was_used = True
        request.tries += 1
        request.stream, request.connection = stream, self
        self._streams[stream] = request
        self._gate.paid()
        request.since = self._used_at = now = self._loop.time()
        if self._asked_since is None:
            self._asked_since = now
        length = b"%d" % len(request.octets)
        self._h2.send_headers(stream, (*self._pool.headers, (b"content-length", length)))
        self._send_body(request)

    def _send_body(self, request: _Request[T]) -> None:
        """Send as much of the message as the server has a window for."""
        left = len(request.octets) - request.sent
        size = min(left, self._h2.local_flow_control_window(request.stream), self._h2.max_outbound_frame_size)
        if size == left:
            self._h2.send_data(request.stream, request.octets[request.sent :], end_stream=True)
            self._unsent.pop(request.stream, None)
            return
        if size > 0:
            self._h2.send_data(request.stream, request.octets[request.sent : request.sent + size])
            request.sent += size
        self._unsent[request.stream] = request

    def _write(self) -> None:
        if self._transport is not None and not self._transport.is_closing() and (octets := self._h2.data_to_send()):
            self._transport.write(octets)

    # ---- receiving ----

    def _take(self, found: list[events.Event]) -> None:
        for event in found:
            if isinstance(event, events.DataReceived):
                self._take_data(event)
            elif isinstance(event, events.ResponseReceived):
                self._take_headers(event)
            elif isinstance(event, events.StreamEnded):
                self._take_end(event)
            elif isinstance(event, events.StreamReset):
                self._take_reset(event)
            elif isinstance(event, events.RemoteSettingsChanged):
                self._most = min(MOST_STREAMS, self._h2.remote_settings.max_concurrent_streams)

    def _take_headers(self, event: events.ResponseReceived) -> None:
        request = self._streams.get(event.stream_id or 0)
        if request is None:
            return
        headers = dict(reversed(event.headers or ()))  # the first of several
        status = headers.get(b":status", b"")
        media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if status != b"200":
            shown = ascii(status[:16].decode("latin-1"))[1:-1]  # no line of its own
            self._refuse(request, f"answers with HTTP status {shown}: {_REMEDIES.get(status[:1], _PATH)}")
        elif media_type != MEDIA_TYPE:
            shown = media_type[:64].decode("latin-1")
            self._refuse(request, f"answers with {shown!r}, not with a DNS message: {_PATH}")
        else:
            request.body = bytearray()
            if not self._has_answered and self._transport is not None:
                self._has_answered = True
                self._pool.remember(self._transport)  # the tickets of TLS 1.3 come behind the handshake

    def _take_data(self, event: events.DataReceived) -> None:
        stream = event.stream_id or 0
        if event.flow_controlled_length:
            self._h2.acknowledge_received_data(event.flow_controlled_length, stream)
        request = self._streams.get(stream)
        if request is None or request.body is None:
            return
        request.body += event.data or b""
        if len(request.body) > MAX_MESSAGE:
            self._refuse(request, f"answers with more than {MAX_MESSAGE} octets, which no DNS message has")

    def _take_end(self, event: events.StreamEnded) -> None:
        request = self._streams.get(event.stream_id or 0)
        if request is None or request.body is None:
            return
        self._end(request)
        self._heard()
        self._pool.answered(request)

    def _take_reset(self, event: events.StreamReset) -> None:
        request = self._streams.get(event.stream_id or 0)
        if request is None:
            return
        self._end(request)
        self._heard()
        if event.error_code == ErrorCodes.REFUSED_STREAM:  # it was not looked at (RFC 9113 section 8.7)
            self._pool.again([request])
        else:
            self._pool.warn(f"resets requests: {event.error_code!r}")
            self._pool.failed(request, "http")

    def _refuse(self, request: _Request[T], why: str) -> None:
        self._end(request, ErrorCodes.CANCEL)
        self._heard()
        self._pool.warn(why)
        self._pool.failed(request, "http")

    def _end(self, request: _Request[T], code: ErrorCodes | None = None) -> None:
        """Have done with a stream. code: tell the server so, unless it has done with it too."""
        self._streams.pop(request.stream, None)
        is_whole = self._unsent.pop(request.stream, None) is None
        stream = self._h2.streams.get(request.stream)
        if stream is not None and not stream.closed and (code is not None or not is_whole):
            self._h2.reset_stream(request.stream, code or ErrorCodes.NO_ERROR)

    def _heard(self) -> None:
        """A request has ended: it is no silent server."""
        self._asked_since = self._loop.time() if self._streams else None

    def _go_away(self, goaway: http2.Goaway) -> None:
        """Ask elsewhere what the server will not answer here; the rest may still be answered."""
        self._retire()
        if goaway.code:
            self._pool.warn(f"closes the connection: {_code(goaway.code)}")
        unseen = [request for stream, request in self._streams.items() if stream > goaway.last_stream]
        for request in unseen:
            del self._streams[request.stream]
            self._unsent.pop(request.stream, None)
        self._lose(unseen)

    def _lose(self, requests: list[_Request[T]]) -> None:
        self._pool.again(requests)
        self._pool.batch_ended()

    # ---- ending ----

    def _retire(self) -> None:
        """Take no more requests. Those that wait hear of it if this one never took any: another would be no better."""
        self.is_retired = True
        if not self._was_used:
            self._pool.give_up("tcp")

    def _abort(self, why: str) -> None:
        self._pool.warn(why)
        self._write()  # h2 has said why
        if self._transport is not None:
            self._transport.abort()
        self._retire()
        self._finish()
        self._lose(list(self._streams.values()))

    def _finish(self) -> None:
        self._is_over = True
        self._h2._frame_dispatch_table.clear()  # it holds methods, and so the connection itself: a circle
        if self._timer is not None:
            self._timer.cancel()
        self._pool.closed(self)

    def _tick(self) -> None:
        now = self._loop.time()
        if self._asked_since is not None and now - self._asked_since >= self._pool.stuck_s:
            for request in self._streams.values():
                request.tries = TRIES  # they have waited long enough
            self._was_used = False  # and so have those that it had no room for
            self._abort(f"has answered nothing for {self._pool.stuck_s:g} s")
        elif self._streams and self._silent_ticks >= DEAD_TICKS:
            self._abort("does not answer any more on its connection, another one is opened")
        elif not self._streams and not self._pool.has_queue and now - self._used_at >= self._pool.idle_s:
            self.close()
        else:
            self._look_alive()
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def _look_alive(self) -> None:
        """Ask a server that is silent whether it is there: a way that was cut does not say so."""
        if not self._streams:
            self._silent_ticks = 0
            return
        self._silent_ticks += 1
        if self._silent_ticks == 1 and not self._is_paused:
            self._h2.ping(bytes(8))
            self._write()


def _code(code: int) -> str:
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"error {code}"
