"""TLS towards one upstream: always verified, short handshakes where it knows us, and what to say when it fails.

The strict profile of RFC 8310 section 5: no certificate for the name, no query.
"""

import ssl
import time
from collections.abc import Sequence

VERIFIED_S = 3_600.0  # after which a certificate is looked at again, though the server would resume
_NAMES_TOLD, _NAME_TOLD = 3, 80  # names, and characters of each: whoever listens there may have written anything
_REMEDIES = {  # what X509_verify_cert says, by its number
    9: "its certificate is not valid yet: is the clock of this machine right?",
    10: "its certificate has expired: whoever runs it has to renew it (or the clock of this machine is wrong)",
    **dict.fromkeys(
        (2, 18, 19, 20, 21),
        "its certificate comes from no authority that is trusted here: name the file with its authority's"
        " certificate in resolve.ca_file",
    ),
}
_MISMATCH = frozenset({62, 64})  # host name, address
_REASONS = {  # by OpenSSL's reason, in part
    "WRONG_VERSION_NUMBER": "what listens there speaks no TLS: is the port right? (853, as a rule)",
    "UNSUPPORTED_PROTOCOL": "it speaks no TLS version from 1.2 on",
    "PROTOCOL_VERSION": "it speaks no TLS version from 1.2 on",
    "NO_APPLICATION_PROTOCOL": "it does not serve DNS on this port (it refuses our ALPN protocol)",
    "HANDSHAKE_FAILURE": "it found no common way to encrypt, or wants a certificate of ours",
    "UNEXPECTED_EOF": "it closes the connection during the TLS handshake",
}


class _Context(ssl.SSLContext):
    """Offers the last session for resumption: event loops have no parameter for it."""

    session: ssl.SSLSession | None = None
    last: ssl.SSLObject | None = None  # of the handshake that was begun last

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        self.last = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session or self.session)
        return self.last


class Tls:
    """How one upstream is spoken to over TLS."""

    def __init__(self, server_name: str, ca_file: str | None = None, alpn: Sequence[str] = ("dot",)) -> None:
        """Raises OSError where the file cannot be read or holds no certificates, and for what is no host name.

        server_name: the name, or the address, that its certificate must be for.
        ca_file: certificates of the authorities to trust; None: those of the system.
        """
        self.server_name = server_name
        self._context = _Context(ssl.PROTOCOL_TLS_CLIENT)  # CERT_REQUIRED and check_hostname from the start
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.set_alpn_protocols(list(alpn))
        if ca_file is None:
            self._context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            self._context.load_verify_locations(cafile=ca_file)
        self._verified_at = 0.0
        try:
            self._context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=server_name)
        except ValueError as error:  # now, rather than with each connection
            raise ssl.SSLError(f"{server_name} is no name that a certificate could be for: {error}") from None
        self._context.last = None

    @property
    def context(self) -> ssl.SSLContext:
        """The context for the next connection."""
        if self._context.session is not None and time.monotonic() >= self._verified_at + VERIFIED_S:
            self._context.session = None
        return self._context

    def remember(self, connection: ssl.SSLObject | None) -> None:
        """Keep a session for the next connection; to be called when the first data has come."""
        self._context.last = None
        if connection is None or connection.session_reused:  # each look at a session costs memory that never comes back
            return
        session = connection.session
        if session is not None and (session.has_ticket or session.id):
            self._verified_at = time.monotonic()
            self._context.session = session

    def reason(self, error: OSError) -> str:
        """Return what went wrong in a handshake and what to do about it; a line for the log."""
        failed, self._context.last = self._context.last, None
        if isinstance(error, ssl.SSLCertVerificationError):
            if error.verify_code in _MISMATCH:
                names = _names(failed)
                told = ", ".join(names[:_NAMES_TOLD]) + (", ..." if len(names) > _NAMES_TOLD else "")
                return (
                    f"its certificate is for {told or 'other names'}, not for {self.server_name}:"
                    " if that is the right server, write a name that it has behind the #"
                )
            return _REMEDIES.get(error.verify_code, f"its certificate is not accepted: {error.verify_message}")
        if isinstance(error, ssl.SSLError):
            reason = error.reason or str(error).partition(" (")[0].replace(" ", "_").upper()
            said = (text for part, text in _REASONS.items() if part in reason)
            return next(said, f"the TLS handshake fails: {reason}")
        if isinstance(error, ConnectionAbortedError):
            return "it does not finish the TLS handshake in time"
        return "it closes the connection during the TLS handshake"


def _names(failed: ssl.SSLObject | None) -> Sequence[str]:
    """Return the names in a certificate that was refused, as far as this Python shows them."""
    try:
        certificate = failed._sslobj.get_unverified_chain()[0].get_info()  # type: ignore[union-attr]
        names = [str(name) for kind, name in certificate["subjectAltName"] if kind in ("DNS", "IP Address")]
    except (AttributeError, LookupError, TypeError, ValueError, ssl.SSLError):
        return ()
    return ["".join(each if each.isprintable() else "?" for each in name[:_NAME_TOLD]) for name in names]
