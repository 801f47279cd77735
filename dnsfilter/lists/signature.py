"""Signatures of minisign: who holds the key made these octets.

A public key is `Ed`, an id of 8 octets and an Ed25519 key, in base64. A signature file has four lines: a
comment that nobody vouches for, `Ed` or `ED` with the key's id and the signature of the file (`ED`: of its
BLAKE2b-512), a comment that counts, and a signature of signature and comment together.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass

_UNTRUSTED, _TRUSTED = b"untrusted comment: ", b"trusted comment: "
_KEY_REMEDY = "write the second line of minisign.pub, which begins with RW"
_FILE_REMEDY = "publish the file that `minisign -S` writes"


class BadSignature(Exception):
    """Octets that are not proved to be what the holder of the key made; the message is for an admin."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Whose signatures count."""

    id: bytes  # 8 octets
    key: bytes  # 32, of Ed25519


def read_key(text: str) -> PublicKey:
    """Read a public key as minisign writes it. Raises ValueError with a remedy."""
    octets = _base64(text.strip().encode(errors="replace"), 42)
    if octets is None or octets[:2] != b"Ed":
        raise ValueError(f"not a public key of minisign; {_KEY_REMEDY}")
    return PublicKey(octets[2:10], octets[10:])


def verify(key: PublicKey, octets: bytes, signature: bytes) -> None:
    """Check that the holder of the key signed these octets. Raises BadSignature.

    signature: the content of the .minisig file.
    """
    lines = [line.removesuffix(b"\r") for line in signature.split(b"\n")]
    if len(lines) < 4 or not lines[0].startswith(_UNTRUSTED) or not lines[2].startswith(_TRUSTED):
        raise BadSignature(f"its signature file is not one of minisign; {_FILE_REMEDY}")
    own, whole = _base64(lines[1], 74), _base64(lines[3], 64)
    if own is None or whole is None or own[:2] not in (b"Ed", b"ED"):
        raise BadSignature(f"its signature file is damaged; {_FILE_REMEDY}")
    if own[2:10] != key.id:
        raise BadSignature(
            f"it is signed with key {_key_id(own[2:10])}, and the configured one is {_key_id(key.id)};"
            " if its publisher has a new key, ask them for it and write it as signing_key"
        )
    signed = octets if own[:2] == b"Ed" else hashlib.blake2b(octets).digest()
    if not _is_signed(key, own[10:], signed):
        raise BadSignature("it is not what was signed: changed since, damaged, or an older file than its signature")
    if not _is_signed(key, whole, own[10:] + lines[2].removeprefix(_TRUSTED)):
        raise BadSignature("the trusted comment of its signature was changed")


def _is_signed(key: PublicKey, signature: bytes, octets: bytes) -> bool:
    try:
        # Here, because only sites with signed lists need it.
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    except ImportError:
        raise BadSignature("signatures cannot be checked here; run: pip install 'dnsfilter[signatures]'") from None
    try:
        Ed25519PublicKey.from_public_bytes(key.key).verify(signature, octets)
    except (InvalidSignature, ValueError):
        return False
    return True


def _base64(text: bytes, size: int) -> bytes | None:
    """Return `size` octets from base64; None where it is not that."""
    try:
        octets = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return octets if len(octets) == size else None


def _key_id(octets: bytes) -> str:
    """Write a key's id as minisign does."""
    return octets[::-1].hex().upper()
