"""Keys and signatures of minisign, made without minisign."""

import base64
import hashlib
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class Signer:
    """Who signs lists."""

    key_id: bytes = bytes(range(1, 9))
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def public(self) -> str:
        """The public key as minisign writes it."""
        return base64.b64encode(b"Ed" + self.key_id + self.key.public_key().public_bytes_raw()).decode()

    def sign(self, octets: bytes, *, is_hashed: bool = True, comment: bytes = b"file:ban.txt") -> bytes:
        """The content of the .minisig file. is_hashed: as newer versions do."""
        own = self.key.sign(hashlib.blake2b(octets).digest() if is_hashed else octets)
        head = (b"ED" if is_hashed else b"Ed") + self.key_id
        lines = [
            b"untrusted comment: signature",
            base64.b64encode(head + own),
            b"trusted comment: " + comment,
            base64.b64encode(self.key.sign(own + comment)),
        ]
        return b"\n".join(lines) + b"\n"
