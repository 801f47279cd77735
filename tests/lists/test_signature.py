"""Signatures: what they prove, and what is said where they do not."""

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from dnsfilter.lists.signature import BadSignature, PublicKey, read_key, verify
from tests.lists.signing import Signer
from tests.programs import need

LIST = b"tiktok.example\nother.example\n"
SIGNER = Signer()
KEY = read_key(SIGNER.public)


def changed_line(signature: bytes, number: int, to: bytes) -> bytes:
    lines = signature.split(b"\n")
    return b"\n".join([*lines[:number], to, *lines[number + 1 :]])


def changed_octet(signature: bytes, number: int, at: int) -> bytes:
    """Another octet in what a line holds in base64."""
    octets = bytearray(base64.b64decode(signature.split(b"\n")[number]))
    octets[at] ^= 1
    return changed_line(signature, number, base64.b64encode(octets))


@pytest.mark.parametrize("is_hashed", [pytest.param(True, id="hashed"), pytest.param(False, id="whole, as once")])
@pytest.mark.parametrize("octets", [pytest.param(LIST, id="a list"), pytest.param(b"", id="nothing")])
def test_what_the_key_signed_is_proved(octets: bytes, is_hashed: bool) -> None:
    verify(KEY, octets, SIGNER.sign(octets, is_hashed=is_hashed))


def test_line_ends_of_other_systems_do_not_matter() -> None:
    verify(KEY, LIST, SIGNER.sign(LIST).replace(b"\n", b"\r\n"))
    verify(KEY, LIST, SIGNER.sign(LIST).removesuffix(b"\n"))


def test_the_first_comment_may_say_anything() -> None:
    verify(KEY, LIST, changed_line(SIGNER.sign(LIST), 0, b"untrusted comment: \xff\x1b[2J"))


OTHER = Signer()


@pytest.mark.parametrize("is_hashed", [pytest.param(True, id="hashed"), pytest.param(False, id="whole")])
@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(LIST + b"\n", id="longer"),
        pytest.param(LIST[:-1], id="shorter"),
        pytest.param(LIST.upper(), id="another"),
        pytest.param(b"", id="empty"),
    ],
)
def test_another_content_is_not_what_was_signed(octets: bytes, is_hashed: bool) -> None:
    with pytest.raises(BadSignature, match="it is not what was signed"):
        verify(KEY, octets, SIGNER.sign(LIST, is_hashed=is_hashed))


@pytest.mark.parametrize(
    ("signature", "part"),
    [
        pytest.param(OTHER.sign(LIST), "it is not what was signed", id="another key with the same id"),
        pytest.param(Signer(b"another!").sign(LIST), "signed with key", id="another id"),
        pytest.param(changed_octet(SIGNER.sign(LIST), 1, -1), "it is not what was signed", id="a changed signature"),
        pytest.param(changed_octet(SIGNER.sign(LIST), 1, 1), "damaged", id="another algorithm"),
        pytest.param(changed_octet(SIGNER.sign(LIST), 3, 0), "trusted comment", id="a changed second signature"),
        pytest.param(
            changed_line(SIGNER.sign(LIST), 2, b"trusted comment: file:x"), "trusted comment", id="a changed comment"
        ),
        pytest.param(SIGNER.sign(LIST)[:-20], "damaged", id="cut"),
        pytest.param(changed_line(SIGNER.sign(LIST), 1, b"RW??"), "damaged", id="no base64"),
        pytest.param(changed_line(SIGNER.sign(LIST), 1, b"\xff"), "damaged", id="no text"),
        pytest.param(changed_line(SIGNER.sign(LIST), 3, b""), "damaged", id="no second signature"),
        pytest.param(b"", "not one of minisign", id="nothing"),
        pytest.param(b"\n\n\n\n", "not one of minisign", id="empty lines"),
        pytest.param(b"-----BEGIN PGP SIGNATURE-----\n\niQ==\n-----END", "not one of minisign", id="PGP"),
        pytest.param(b"<html>\n404\n</html>\n\n", "not one of minisign", id="a web page"),
    ],
)
def test_a_signature_that_proves_nothing_says_why(signature: bytes, part: str) -> None:
    with pytest.raises(BadSignature, match=part):
        verify(KEY, LIST, signature)


def test_a_signature_for_the_hash_does_not_stand_for_the_content() -> None:
    """Else whoever has one signature could make it one of the other kind, over other octets."""
    hashed = SIGNER.sign(LIST)
    octets = base64.b64decode(hashed.split(b"\n")[1])
    with pytest.raises(BadSignature):
        verify(KEY, LIST, changed_line(hashed, 1, base64.b64encode(b"Ed" + octets[2:])))


def test_the_ids_of_keys_are_written_as_minisign_does() -> None:
    with pytest.raises(BadSignature, match=r"key 21726568746F6E61, and the configured one is 0807060504030201"):
        verify(KEY, LIST, Signer(b"another!"[:8]).sign(LIST))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("RWQ", id="short"),
        pytest.param(SIGNER.public + "AAAA", id="long"),
        pytest.param(base64.b64encode(b"ED" + bytes(40)).decode(), id="another algorithm"),
        pytest.param("untrusted comment: minisign public key", id="the first line of the file"),
        pytest.param("\udcff" * 56, id="no text"),
    ],
)
def test_what_is_no_public_key_says_where_to_find_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"second line of minisign.pub"):
        read_key(text)


def test_a_public_key_has_an_id() -> None:
    assert read_key(f" {SIGNER.public}\n") == PublicKey(SIGNER.key_id, SIGNER.key.public_key().public_bytes_raw())


def test_a_public_key_that_is_no_point_of_the_curve_proves_nothing() -> None:
    with pytest.raises(BadSignature):
        verify(PublicKey(SIGNER.key_id, b"\xff" * 32), LIST, SIGNER.sign(LIST))


def test_without_the_library_keys_are_read_and_signatures_say_what_to_install() -> None:
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from dnsfilter.lists.signature import BadSignature, read_key, verify\n"
        f"key = read_key({SIGNER.public!r})\n"
        f"try: verify(key, {LIST!r}, {SIGNER.sign(LIST)!r})\n"
        "except BadSignature as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'dnsfilter[signatures]'" in done.stdout


@pytest.mark.parametrize("options", [pytest.param([], id="as it is"), pytest.param(["-l"], id="as once")])
def test_what_minisign_signs_is_proved(tmp_path: Path, options: list[str]) -> None:
    minisign = need("minisign", "minisign")
    file, public, secret = tmp_path / "ban.txt", tmp_path / "key.pub", tmp_path / "key.sec"
    file.write_bytes(LIST)
    subprocess.run([minisign, "-GW", "-p", public, "-s", secret], capture_output=True, check=True)
    sign: list[str | Path] = [
        minisign,
        "-S",
        *options,
        "-s",
        secret,
        "-m",
        file,
        "-t",
        "signed for a test, in UTF-8: \u00fc",
    ]
    subprocess.run(sign, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    key, signature = read_key(public.read_text().splitlines()[1]), (tmp_path / "ban.txt.minisig").read_bytes()
    verify(key, LIST, signature)
    with pytest.raises(BadSignature, match="not what was signed"):
        verify(key, LIST + b"more.example\n", signature)
    with pytest.raises(BadSignature, match="signed with key"):
        verify(KEY, LIST, signature)


def test_minisign_agrees_about_signatures_made_here(tmp_path: Path) -> None:
    """So that the tests above are about what minisign does."""
    minisign = need("minisign", "minisign")
    (tmp_path / "ban.txt").write_bytes(LIST)
    for is_hashed in (True, False):
        (tmp_path / "ban.txt.minisig").write_bytes(SIGNER.sign(LIST, is_hashed=is_hashed))
        subprocess.run([minisign, "-V", "-P", SIGNER.public, "-m", tmp_path / "ban.txt"], check=True)
