"""DNS cookies: a client that shows ours can receive at its address (RFC 7873, RFC 9018). Knows no queries."""

from hmac import compare_digest

from dnsfilter.core.clients import Address

CLIENT_COOKIE = 8  # octets
SECRET = 16
RENEWED_S = 1_800  # a cookie that is older is replaced (RFC 9018 section 4.3)
LIFETIME_S = 3_600  # one that is older is none
AHEAD_S = 300  # how far clocks may be apart
_VERSION = b"\1\0\0\0"  # and three reserved octets
_MASK = 0xFFFF_FFFF_FFFF_FFFF


class Cookies:
    """The server cookies of one secret. Nothing is kept of the clients."""

    def __init__(self, secret: bytes) -> None:
        """secret: SECRET octets, known to nobody else."""
        self._secret = secret

    def answer(self, cookie: bytes, ip: Address, wall: float) -> bytes:
        """Return the COOKIE option's octets for an answer: the client's, and ours, the same as long as it is young.

        cookie: as the client sent it, 8 octets at least. wall: seconds since the epoch.
        """
        client, seconds = cookie[:CLIENT_COOKIE], int(wall)
        if -AHEAD_S <= seconds - issued(cookie) <= RENEWED_S and self.is_ours(cookie, ip, wall):
            return cookie
        return client + self._server_cookie(client, ip, seconds)

    def is_ours(self, cookie: bytes, ip: Address, wall: float) -> bool:
        """Tell whether the client at this address was given the server cookie that it shows, not too long ago."""
        if len(cookie) != CLIENT_COOKIE + 16 or not -AHEAD_S <= int(wall) - issued(cookie) <= LIFETIME_S:
            return False
        return compare_digest(cookie[8:], self._server_cookie(cookie[:8], ip, issued(cookie)))

    def _server_cookie(self, client: bytes, ip: Address, seconds: int) -> bytes:
        """RFC 9018 section 4: version, reserved, timestamp, and SipHash-2-4 over all that and the address."""
        start = _VERSION + (seconds & 0xFFFF_FFFF).to_bytes(4, "big")
        return start + siphash(self._secret, client + start + ip.packed)


def issued(cookie: bytes) -> int:
    """Return the second at which a cookie says that it was made; 0 where it holds none of ours."""
    return int.from_bytes(cookie[12:16], "big")


def siphash(key: bytes, message: bytes) -> bytes:
    """Return the 8 octets of SipHash-2-4 (Aumasson and Bernstein), little-endian. key: 16 octets."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    state = (k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573)
    padded = message + bytes(7 - len(message) % 8) + bytes((len(message) & 0xFF,))
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v0, v1, v2, v3 = _rounds(2, state[0], state[1], state[2], state[3] ^ word)
        state = (v0 ^ word, v1, v2, v3)
    v0, v1, v2, v3 = _rounds(4, state[0], state[1], state[2] ^ 0xFF, state[3])
    return (v0 ^ v1 ^ v2 ^ v3).to_bytes(8, "little")


def _rounds(count: int, v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    for _ in range(count):
        v0 = v0 + v1 & _MASK
        v1 = (v1 << 13 & _MASK | v1 >> 51) ^ v0
        v0 = v0 << 32 & _MASK | v0 >> 32
        v2 = v2 + v3 & _MASK
        v3 = (v3 << 16 & _MASK | v3 >> 48) ^ v2
        v0 = v0 + v3 & _MASK
        v3 = (v3 << 21 & _MASK | v3 >> 43) ^ v0
        v2 = v2 + v1 & _MASK
        v1 = (v1 << 17 & _MASK | v1 >> 47) ^ v2
        v2 = v2 << 32 & _MASK | v2 >> 32
    return v0, v1, v2, v3
