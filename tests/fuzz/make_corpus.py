"""Writes the corpus that is made by hand: `python -m tests.fuzz.make_corpus`. Finds are left as they are."""

import base64
import gzip
import json
import re
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

from dnsfilter import snapshot
from tests.core.make import labels_to_wire, opt, option, query, question, response, unhex, wire
from tests.fuzz.targets import CORPUS

ROOT = Path(__file__).parents[2]
POINTER = b"\xc0\x0c"  # to the question's name
LONG = labels_to_wire([b"a" * 63] * 3 + [b"a" * 61])  # 255 octets
FIXED = unhex("0001 0000012c")  # class IN, 300 seconds


def header(counts: str, flags: str = "0100") -> bytes:
    return unhex("1234", flags, counts)


def asked(rest: bytes, counts: str = "0001 0000 0000 0001") -> bytes:
    """A query for www.example with these octets behind its question."""
    return header(counts) + question("www.example") + rest


def said(rest: bytes, counts: str = "0001 0001 0000 0000", name: str = "www.example", rtype: int | str = "A") -> bytes:
    """A response to a question with these octets behind it."""
    return header(counts, "8180") + question(name, rtype) + rest


def record(rtype: int, rdata: bytes, owner: bytes = POINTER, length: int | None = None) -> bytes:
    return (
        owner + struct.pack("!H", rtype) + FIXED + struct.pack("!H", len(rdata) if length is None else length) + rdata
    )


AT = 12 + len(question("www.example"))  # where the first record starts
A = record(1, b"\xc0\0\2\1")
WWW, BANNED = query("www.example"), wire("x.banned.example")

QUERIES = {
    "plain": WWW,
    "listed_name": query("x.Banned.Example"),
    "allowed_below_listed": query("press.banned.example"),
    "same_ending_other_label": query("notbanned.example"),
    "label_with_a_dot_in_it": query(b"\x0ex.banned.thing\7example\0"),
    "edns": query("www.example", edns=opt(4096, do=True)),
    "edns_options": query("banned.example", "AAAA", edns=opt(options=option(3) + option(65_001, b"abc"))),
    "root": query(b"\0", "NS"),
    "any": query("www.example", "ANY"),
    "any_listed": query("banned.example", "ANY"),
    "https_listed": query("banned.example", "HTTPS", edns=opt()),
    "type_opt_in_question": query("www.example", 41),
    "type_zero": query("www.example", 0),
    "axfr": query("banned.example", 252),
    "class_chaos": query("banned.example", rclass=3),
    "class_any": query("banned.example", rclass=255),
    "name_of_255_octets": query(LONG),
    "name_of_256_octets": query(labels_to_wire([b"a" * 63] * 3 + [b"a" * 62])),
    "label_of_64_octets": header("0001 0000 0000 0000") + b"\x40" + b"a" * 64 + b"\0\0\1\0\1",
    "label_type_10": header("0001 0000 0000 0000") + b"\x80a\0\0\1\0\1",
    "pointer_in_the_question": header("0001 0000 0000 0000") + b"\1a\xc0\x0c\0\1\0\1",
    "pointer_to_itself": header("0001 0000 0000 0000") + b"\xc0\x0c\0\1\0\1",
    "pointer_into_the_header": header("0001 0000 0000 0000") + b"\xc0\0\0\1\0\1",
    "name_runs_off_the_end": header("0001 0000 0000 0000") + b"\3www",
    "question_cut_before_class": WWW[:-2],
    "octet_behind_the_question": WWW + b"\0",
    "header_alone": header("0000 0000 0000 0000"),
    "eleven_octets": WWW[:11],
    "empty": b"",
    "two_questions": header("0002 0000 0000 0000") + question("www.example") + question("banned.example"),
    "no_question": header("0000 0000 0000 0001") + opt(),
    "all_counts_65535": header("ffff ffff ffff ffff") + question("www.example"),
    "a_response": header("0001 0000 0000 0000", "8180") + question("banned.example"),
    "opcode_update": header("0001 0000 0000 0000", "2800") + question("banned.example"),
    "opcode_notify": header("0001 0000 0000 0000", "2400") + question("banned.example"),
    "all_flags": header("0001 0000 0000 0000", "07ff") + question("www.example"),
    "opt_rdlength_past_end": asked(opt()[:-2] + b"\xff\xff"),
    "opt_rdlength_short": asked(opt(options=option(3, b"ab"))[:-6] + b"\0\1ab\0\0"),
    "opt_cut": asked(opt()[:-1]),
    "opt_twice": asked(opt() * 2, "0001 0000 0000 0002"),
    "opt_in_the_answer_section": asked(opt(), "0001 0001 0000 0000"),
    "opt_owner_not_root": asked(b"\1a" + opt()),
    "opt_owner_a_pointer": asked(POINTER + opt()[1:]),
    "opt_version_255": asked(opt(version=255)),
    "opt_size_0": asked(opt(0)),
    "option_length_past_end": asked(opt(options=b"\0\3\xff\xff")),
    "option_header_cut": asked(opt(options=b"\0\3\0")),
    "cookie_of_7_octets": asked(opt(options=option(10, bytes(7)))),
    "cookie_of_41_octets": asked(opt(options=option(10, bytes(41)))),
    "client_subnet_cut": asked(opt(options=option(8, b"\0\1\x20\0"))),
    "opt_owner_points_to_a_zero_octet": asked(b"\xc0\x0a" + opt()[1:]),
    "owner_of_a_record_points_nowhere": asked(b"\xc0\xc0" + A[2:], "0001 0001 0000 0000"),
    "tsig_behind_opt": asked(opt() + record(250, b"", b"\0"), "0001 0000 0000 0002"),
    "record_in_the_answer_section": asked(A, "0001 0001 0000 0000"),
    "record_of_class_any_and_opt": asked(b"\0\0\1\0\xff\0\0\0\0\0\0" + opt(), "0001 0000 0000 0002"),
}

_ALIAS = record(5, BANNED)
ANSWERS = {
    "address": response(WWW, "www.example 300 IN A 192.0.2.1"),
    "alias": response(WWW, "www.example 300 IN CNAME edge.example", "edge.example 60 IN A 192.0.2.1"),
    "alias_to_a_listed_name": response(
        WWW, "www.example 300 IN CNAME x.banned.example", "x.banned.example 60 IN A 198.51.100.66"
    ),
    "aliases_in_reverse": response(
        WWW, "x.banned.example 60 IN A 198.51.100.66", "www.example 300 IN CNAME X.Banned.example"
    ),
    "alias_to_itself": said(record(5, POINTER)),
    "aliases_in_a_circle": response(WWW, "www.example 60 IN CNAME a.example", "a.example 60 IN CNAME www.example"),
    "two_aliases_of_one_name": response(
        WWW, "www.example 60 IN CNAME a.example", "www.example 60 IN CNAME banned.example"
    ),
    "dname_into_a_listed_zone": response(
        WWW, "example 60 IN DNAME banned.example", "www.example 60 IN CNAME www.banned.example"
    ),
    "dname_alone_into_a_listed_zone": response(
        WWW, "example 60 IN DNAME banned.example", "www.banned.example 60 IN A 198.51.100.66"
    ),
    "larger_than_512": response(WWW, *(f"www.example 60 IN A 192.0.2.{number}" for number in range(40))),
    "larger_than_1232": response(WWW, *(f"www.example 60 IN A 192.0.2.{number}" for number in range(90))),
    "dname_makes_a_name_too_long": said(
        record(39, labels_to_wire([b"b" * 63] * 3 + [b"b" * 50]), wire("example")), "0001 0001 0000 0000"
    ),
    "dname_of_the_root": said(record(39, wire("banned.example"), b"\0")),
    "https_to_a_listed_name": response(
        query("www.example", "HTTPS"), "www.example 60 IN HTTPS 1 banned.example alpn=h2"
    ),
    "https_in_the_additional_section": response(
        query("www.example", "SRV"),
        "www.example 60 IN SRV 1 2 3 a.example",
        additional=["a.example 60 IN HTTPS 1 banned.example", "a.example 60 IN A 192.0.2.1"],
    ),
    "listed_name_in_the_additional_section": response(
        query("www.example", "MX"),
        "www.example 60 IN MX 1 banned.example",
        additional=["banned.example 60 IN A 198.51.100.66", "mail.example 60 IN A 192.0.2.1"],
    ),
    "listed_name_in_the_authority_section": said(record(2, b"\2ns" + POINTER, BANNED), "0001 0000 0001 0000"),
    "record_of_another_name": response(WWW, "other.example 60 IN A 192.0.2.1"),
    "nodata": response(WWW, authority=["example 60 IN SOA ns.example host.example 1 2 3 4 5"]),
    "nxdomain": response(WWW, authority=["example 60 IN SOA ns.example host.example 1 2 3 4 5"], rcode=3),
    "soa_minimum_top_bit": response(WWW, authority=["example 60 IN SOA ns.example host.example 1 2 3 4 4294967295"]),
    "ttl_top_bit": said(POINTER + unhex("0001 0001 80000000 0004 c0000201")),
    "ttl_0": said(POINTER + unhex("0001 0001 00000000 0004 c0000201")),
    "truncated": said(A)[:2] + b"\x83" + said(A)[3:],
    "formerr_header_alone": unhex("1234 8181 0000 0000 0000 0000"),
    "extended_rcode": header("0001 0000 0000 0001", "8183") + question("www.example") + b"\0\0\x29\4\xd0\xff\0\0\0\0\0",
    "opt_before_a_record": said(opt() + A, "0001 0000 0000 0002"),
    "two_opts": said(opt() * 2, "0001 0000 0000 0002"),
    "option_length_past_end": said(opt(options=b"\0\3\xff\xff"), "0001 0000 0000 0001"),
    "pointer_to_itself": said(struct.pack("!H", 0xC000 | AT) + A[2:]),
    "pointer_forward": said(b"\xc0\xff" + A[2:]),
    "pointer_into_a_ttl": said(A + struct.pack("!H", 0xC000 | AT + 6) + A[2:], "0001 0002 0000 0000"),
    "pointer_into_the_middle_of_a_label": said(b"\xc0\x0d" + A[2:]),
    "pointer_into_the_header": said(b"\xc0\x04" + A[2:]),
    "label_type_01": said(b"\x41a\0" + A[2:]),
    "rdata_past_end": said(record(1, b"\xc0\0\2\1", length=65_535)),
    "cname_runs_off_its_rdata": said(record(5, b"\1a\0", length=2)),
    "txt_without_a_string": said(record(16, b""), rtype="TXT"),
    "txt_string_past_end": said(record(16, b"\5abc"), rtype="TXT"),
    "naptr_strings_past_end": said(record(35, b"\0\1\0\2\1u\1E\5abc"), rtype=35),
    "svcb_keys_out_of_order": said(record(64, b"\0\1\0" + b"\0\3\0\0\0\1\0\0"), rtype=64),
    "record_of_class_chaos": said(POINTER + unhex("0001 0003 0000012c 0004 c0000201")),
    "type_any_as_a_record": said(record(255, b"")),
    "https_target_compressed": said(record(65, b"\0\1\4edge" + POINTER), rtype=65),
    "header_alone_that_counts_records": unhex("1234 8181 0000 0041 0000 0000"),
    "obsolete_type_without_rdata": said(record(14, b"")),
    "tsig_from_upstream": said(A + record(250, bytes(20), b"\0"), "0001 0001 0000 0001"),
    "unknown_type": said(record(65_400, POINTER), rtype=65_400),
    "rrsig_of_the_zone": response(
        query("www.example", edns=opt(do=True)),
        "www.example 60 IN A 192.0.2.1",
        "www.example 60 IN RRSIG A 13 2 60 20300101000000 20200101000000 1 example YWJj",
    ),
    "all_counts_65535": said(A, "0001 ffff ffff ffff"),
    "octet_behind_the_last_record": said(A + b"\0"),
    "last_octet_missing": said(A)[:-1],
    "query_in_the_place_of_a_response": WWW,
}

_ASKED = query("cdn.www.example")
_CUT = _ASKED[:2] + b"\x81\x80" + _ASKED[4:6] + b"\0\1" + _ASKED[8:]  # one record is to follow


def _pair(asked: bytes, said: bytes) -> bytes:
    return bytes([len(asked)]) + asked + said


PAIRS = {
    "address": _pair(WWW, ANSWERS["address"]),
    "addresses_up_to_the_bound": _pair(WWW, response(WWW, *(f"www.example 60 IN A 192.0.2.{n}" for n in range(8)))),
    "addresses_beyond_the_bound": _pair(WWW, response(WWW, *(f"www.example 60 IN A 192.0.2.{n}" for n in range(9)))),
    "upper_case": _pair(query("WWW.EXAMPLE"), ANSWERS["address"]),
    "ipv6_with_do": _pair(
        query("www.example", "AAAA", edns=opt(do=True)),
        response(query("www.example", "AAAA", edns=opt(do=True)), "www.example 60 IN AAAA 2001:db8::1"),
    ),
    "no_opt_in_the_answer_to_do": _pair(query("www.example", edns=opt(do=True)), ANSWERS["address"]),
    "alias_above": _pair(
        _ASKED, response(_ASKED, "cdn.www.example 60 IN CNAME www.example", "www.example 60 IN A 192.0.2.1")
    ),
    "alias_below_and_back": _pair(
        _ASKED, response(_ASKED, "cdn.www.example 60 IN CNAME a.example", "a.example 60 IN CNAME cdn.www.example")
    ),
    "alias_to_a_listed_name": _pair(WWW, ANSWERS["alias_to_a_listed_name"]),
    "alias_that_is_a_pointer_alone": _pair(_ASKED, _CUT + record(5, b"\xc0\x10")),
    "alias_that_is_a_pointer_alone_and_its_address": _pair(
        _ASKED,
        header("0001 0002 0000 0000", "8180") + _ASKED[12:] + record(5, b"\xc0\x10") + record(1, bytes(4), b"\xc0\x2d"),
    ),
    "alias_into_the_middle_of_a_label": _pair(_ASKED, _CUT + record(5, b"\1a\xc0\x0d")),
    "alias_into_the_header": _pair(_ASKED, _CUT + record(5, b"\1a\xc0\x04")),
    "alias_to_the_root_by_pointer": _pair(_ASKED, _CUT + record(5, b"\1a\xc0\x1c")),
    "alias_behind_the_question": _pair(_ASKED, _CUT + record(5, b"\1a\xc0\x1d")),
    "alias_of_no_octets": _pair(_ASKED, _CUT + record(5, b"")),
    "alias_of_one_octet": _pair(_ASKED, _CUT + record(5, b"\0")),
    "alias_longer_than_the_message": _pair(_ASKED, _CUT + record(5, b"\1a\xc0\x10", length=65_535)),
    "alias_with_a_label_of_64_octets": _pair(_ASKED, _CUT + record(5, b"\x40" + b"a" * 64 + b"\xc0\x10")),
    "opt_with_an_extended_rcode": _pair(WWW, said(A + b"\0\0\x29\4\xd0\1\0\0\0\0\0", "0001 0001 0000 0001")),
    "opt_of_three_octets": _pair(WWW, said(A + opt()[:3], "0001 0001 0000 0001")),
    "opt_cut": _pair(WWW, said(A + opt()[:-1], "0001 0001 0000 0001")),
    "ttl_top_bit": _pair(WWW, ANSWERS["ttl_top_bit"]),
    "ttl_0": _pair(WWW, ANSWERS["ttl_0"]),
    "truncated": _pair(WWW, ANSWERS["truncated"]),
    "address_of_another_size": _pair(WWW, said(record(1, bytes(16)))),
    "another_question": _pair(WWW, response(query("other.example"), "other.example 60 IN A 192.0.2.1")),
    "another_case": _pair(WWW, response(query("wWw.example"), "wWw.example 60 IN A 192.0.2.1")),
    "label_of_64_octets": _pair(QUERIES["label_of_64_octets"], b""),
    "larger_than_512": _pair(
        query("a" * 63 + "." + "b" * 63 + ".example"), response(query("a" * 63 + "." + "b" * 63 + ".example"))
    ),
}


def frame_of(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2 (RFC 9113 section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + number.to_bytes(4, "big") + payload


def came(octets: bytes, act: int = 0x80) -> bytes:
    """What comes on a connection, as the targets of connections read it, in pieces where it is too long for one."""
    pieces = [octets[at : at + 250] for at in range(0, len(octets), 250)] or [b""]
    return b"".join(bytes((act, len(piece))) + piece for piece in pieces)


TURN, SECOND, MINUTE, CLOSED, SENDS, FORGETS = b"\x60", b"\x62", b"\x65", b"\x70", b"\x78", b"\x7a"
RIGHT = came(b"", 0xF0)

STREAMS = {
    "right_answers": b"\0\1\2" + TURN + RIGHT * 3,
    "answer_and_half_of_the_next": b"\0\1" + TURN + came(b"\0\x0c\0\1", 0xF0) + came(bytes(10)),
    "message_of_no_octets": TURN + came(b"\0\0\0\1\7"),
    "strays_without_end": TURN + came(b"\0\2ab" * 62) * 3 + TURN,
    "question_of_another": b"\0\1" + TURN + came(b"\0\x0c" + bytes(12)),
    "forgotten_then_answered": b"\0" + TURN + b"\x40" + RIGHT,
    "forgotten_by_who_is_told": b"\0\1\2\3" + FORGETS + TURN + RIGHT + CLOSED + TURN,
    "sent_by_who_is_told": b"\0\1\2\3" + SENDS + TURN + RIGHT + CLOSED + TURN + CLOSED + TURN,
    "closed_again_and_again": (b"\0" + CLOSED + TURN) * 8,
    "closed_after_each_answer": (b"\0\1" + TURN + RIGHT + CLOSED + TURN) * 6,
    "silent_until_it_is_given_up": b"\0\1" + TURN + MINUTE * 3,
    "given_up_after_a_second": b"\0\1" + TURN + SECOND + b"\x40\x40" + TURN,
    "does_not_read": b"\x74\0\1" + TURN + b"\x76" + TURN,
    "more_than_may_wait": bytes(range(16)) * 3 + TURN,
}

_OK = bytes.fromhex("880f10") + b"\x17application/dns-message"  # :status 200 and the type, by HPACK without a table
_BODY = b"\0\0\x81\x80\0\1\0\0\0\0\0\0" + question("n0.example")
_HELLO = came(frame_of(4, 0, 0) + frame_of(4, 1, 0)) + TURN
_ANSWER = frame_of(1, 4, 1, _OK) + frame_of(0, 1, 1, _BODY)

HTTP2 = {
    "right_answer": _HELLO + came(_ANSWER) + TURN,
    "answer_before_settings": came(_ANSWER) + TURN,
    "answer_in_pieces": _HELLO + b"".join(came(bytes([each])) for each in _ANSWER) + TURN,
    "status_404": _HELLO + came(frame_of(1, 5, 1, b"\x8d")) + TURN,
    "headers_twice": _HELLO + came(frame_of(1, 4, 1, _OK) * 2) + TURN,
    "trailers": _HELLO + came(frame_of(1, 4, 1, _OK) + frame_of(0, 0, 1, _BODY) + frame_of(1, 5, 1, b"\0\1a\1b")),
    "interim_response": _HELLO + came(frame_of(1, 4, 1, b"\x08\x03103") + _ANSWER) + TURN,
    "body_of_3_octets": _HELLO + came(frame_of(1, 4, 1, _OK) + frame_of(0, 1, 1, b"abc")) + TURN,
    "body_of_another_question": _HELLO + came(frame_of(1, 4, 1, _OK) + frame_of(0, 1, 1, _BODY[:-1] + b"\3")) + TURN,
    "padding_longer_than_the_frame": _HELLO + came(frame_of(1, 4, 1, _OK) + frame_of(0, 9, 1, b"\xffabc")) + TURN,
    "refused_stream": _HELLO + came(frame_of(3, 0, 1, b"\0\0\0\7")) * 3 + TURN,
    "reset_of_a_stream_never_opened": _HELLO + came(frame_of(3, 0, 77, b"\0\0\0\1")) + TURN,
    "goaway_0": _HELLO + came(frame_of(7, 0, 0, bytes(8))) + TURN + SECOND,
    "goaway_that_lets_it_answer": _HELLO + came(frame_of(7, 0, 0, b"\0\0\0\1" + bytes(4)) + _ANSWER) + TURN,
    "goaway_cut": _HELLO + came(frame_of(7, 0, 0, bytes(4))) + TURN,
    "push": _HELLO + came(frame_of(5, 4, 1, b"\0\0\0\2" + _OK)) + TURN,
    "window_of_0": came(frame_of(4, 0, 0, b"\0\4\0\0\0\0")) + b"\1" + TURN + came(frame_of(8, 0, 3, b"\0\0\0\1")),
    "window_below_0": b"\1" + TURN + came(frame_of(4, 0, 0, b"\0\4\0\0\0\0")) + b"\2" + TURN,
    "window_beyond_its_bound": _HELLO + came(frame_of(8, 0, 0, b"\x7f\xff\xff\xff")) + TURN,
    "no_streams_at_all": came(frame_of(4, 0, 0, b"\0\3\0\0\0\0")) + b"\1\2" + TURN + MINUTE,
    "no_streams_then_some": came(frame_of(4, 0, 0, b"\0\3\0\0\0\0")) + b"\1" + TURN + _HELLO,
    "frame_size_of_nothing": came(frame_of(4, 0, 0, b"\0\5\0\0\0\0")) + TURN,
    "header_table_of_nothing": came(frame_of(4, 0, 0, b"\0\1\0\0\0\0")) + b"\1" + TURN + _HELLO,
    "pings": _HELLO + came(frame_of(6, 0, 0, bytes(8)) * 14) * 5 + TURN,
    "continuation_without_headers": _HELLO + came(frame_of(9, 4, 1, _OK)) + TURN,
    "continuations_without_end": _HELLO + came(frame_of(1, 0, 1, _OK) + frame_of(9, 0, 1) * 20) + TURN,
    "integer_of_hpack_without_end": _HELLO + came(frame_of(1, 5, 1, b"\xff" * 40)) + TURN,
    "frame_of_16_megabytes": _HELLO + came(b"\xff\xff\xff\0\0\0\0\0\1") + TURN,
    "unknown_frames": _HELLO + came(frame_of(10, 0, 1, b"\0\0") + frame_of(12, 0, 0, b"a") + frame_of(255, 255, 9)),
    "priority_of_itself": _HELLO + came(frame_of(2, 0, 1, b"\0\0\0\1\0")) + TURN,
    "forgotten_then_answered": _HELLO + b"\x40" + came(_ANSWER) + TURN,
    "forgotten_by_who_is_told": b"\0\1\2" + FORGETS + TURN + _HELLO + came(frame_of(7, 0, 0, bytes(8))) + CLOSED,
    "sent_by_who_is_told": b"\0\1\2" + SENDS + TURN + _HELLO + came(frame_of(3, 0, 1, b"\0\0\0\1")) + CLOSED,
    "closed_with_half_a_frame": _HELLO + came(_ANSWER[:20]) + CLOSED + TURN,
    "http_1": came(b"HTTP/1.1 400 Bad Request\r\n\r\n") + TURN,
    "silent": MINUTE * 3,
}

UPSTREAM_TEXTS = (
    *("192.0.2.53", "192.0.2.53:5353", "[2001:db8::53]:53", "2001:db8::53", "fe80::1%eth0", "::ffff:192.0.2.53"),
    *("tls://192.0.2.55#dns.example", "tls://dns.example:8853", "tls://[2001:db8::53]:853#dns.example."),
    *("https://dns.example/dns-query", "https://192.0.2.55:8443/dns-query#dns.example", "https://dns.example/a%20b"),
    *("https://user:secret@dns.example/dns-query", "https://dns.example/{?dns}", "https://dns.example/q?dns="),
    *("tls://bücher.example", "tls://fe80::1%25eth0", "https://[fe80::1%eth0]/dns-query#dns.example", "tls://192.0.2"),
    *("tls://#x", "https:///dns-query", "sdns://AgcAAAAA", "tls://dns.example:99999", "tls://dns.example#192.0.2.1"),
    *("tls://" + "a" * 64 + ".example", "tls://" + "a." * 130 + "example", "0.0.0.0", "tls://[::]", "tls://:853"),
    *("https://dns.example/dns-query\n", "tls://dns\u202e.example", "TLS://DNS.Example#OTHER.example", "tls://."),
    *("tls://-dns.example", "tls://_dns.example", "[192.0.2.53]:53", "192.0.2.53:", "tls://xn--a.example"),
)

LISTS = {
    "domains": {
        "plain": b"banned.example\n*.below.example\n# comment\nother.example # why\n",
        "escapes": b"a\\.b.example\n\\000.example\n\\999.example\nx\\",
        "idna": "bücher.example\nxn--.example\n\u202eexample.test\n。。\n".encode(),
        "control_characters": b"a\x1b[2J.example\n\x00banned.example\nx\x7f.example\n\xc2\x85\n",
        "expression": b"/(^|\\.)banned\\.example$/\n/^a/\n(\\.|^)x\\.example$\n",
        "utf16_with_a_mark": "banned.example\n".encode("utf-16"),
        "utf16_cut": "banned.example\n".encode("utf-16")[:-1],
        "long_line": b"banned.example\n" + b"a." * 1_500 + b"\n",
        "root_and_top_level": b".\nexample\n*.example\n*.\n..\n",
        "reason_repeats_a_long_word": b"e.example\n\xe2\x80\xaeex" + b"ample" * 60,
        "carriage_returns": b"banned.example\rother.example\r\n\r",
    },
    "hosts": {
        "plain": b"0.0.0.0 banned.example other.example\n::1 localhost ip6-localhost\n127.0.0.1\tx.example # c\n",
        "addresses_for_names": b"0.0.0.0 192.0.2.1 ::1 fe80::1%lo0\n0.0.0.0\n0.0.0.0 0.0.0.0\n",
        "zone_of_an_address": b"fe80::1%\x1b banned.example\nfe80::1%%%% x.example\n",
        "other_spaces": "0.0.0.0\u2003banned.example\n0.0.0.0\u00a0x.example\n0.0.0.0\x1cx.example\n".encode(),
    },
    "adblock": {
        "plain": b"[Adblock Plus]\n! c\n||banned.example^\n"
        b"@@||press.banned.example^\n|exact.example|\n*.below.example\n",
        "modifiers": b"||a.example^$important\n@@||b.a.example^\n"
        b"||c.example^$badfilter\n||c.example^\n||d.example^$ctag=x,,\n",
        "pages": b"example.test##.ad\n#@#.x\n||x.example^$$script\n#%#//scriptlet\n",
        "expression_with_a_sign": b"/^x\\.example$/$important\n/$/$\n//$\n/a/$/\n",
        "exceptions_nested": b"||a.example^\n@@||b.a.example^$important\n"
        b"||c.b.a.example^$important\n@@|d.a.example^|\n",
        "empty_patterns": b"||\n@@\n|\n^\n||^\n@@||^\n$\n||$important\n*\n||*\n.\n",
    },
    "dnsmasq": {
        "plain": b"address=/banned.example/0.0.0.0\nserver=/x.example/#\nlocal=/a.example/b.example/\n",
        "no_names": b"address=//\nserver=/#/\nlocal=///\naddress=/\n=\n/\n",
        "targets": b"address=/x.example/zzz\nserver=/x.example/192.0.2.1#53\naddress=/x.example/fe80::1%lo0\n",
    },
    "rpz": {
        "plain": b"$ORIGIN rpz.example.\n@ 60 IN SOA a. b. 1 2 3 4 5\n"
        b"@ NS a.\nbanned.example CNAME .\n*.banned.example CNAME .\n",
        "passthru": b"$TTL 60\n@ SOA a. b. 1 2 3 4 5\n"
        b"press.banned.example CNAME rpz-passthru.\nbanned.example CNAME *.\n",
        "brackets": b"@ SOA a. b. (1 2\n3 4 5)\nx.example CNAME (\n.)\ny.example TXT (((\nz.example CNAME .\n",
        "quotes": b'@ SOA a. b. 1 2 3 4 5\nx.example TXT "a;b(\ny.example TXT "\\"" "\n',
        "origin_that_is_none": b"$ORIGIN\n$ORIGIN ..\nx CNAME .\n$ORIGIN a\\\nx.example. CNAME .\n",
        "triggers": b"@ SOA a. b. 1 2 3 4 5\n32.1.2.0.192.rpz-ip CNAME .\n"
        b"ns.example.rpz-nsdname CNAME .\nrpz-ip CNAME .\n",
        "stars": b"@ SOA a. b. 1 2 3 4 5\n* CNAME .\n*.* CNAME .\na.*.b.example CNAME .\n\\*.x.example CNAME .\n",
        "read_out": b"[rpz.example.] rpz.example. 60 SOA a. b. 1 2 3 4 5\n"
        b"[rpz.example.] x.example.rpz.example. CNAME .\n[] x\n",
        "types": b"@ SOA a. b. 1 2 3 4 5\nx.example TYPE0 \\# 0\n"
        b"x.example TYPE99999 .\nx.example 60 60 A\nx.example IN IN A 1\n",
        "no_owner": b" CNAME .\n\t60\n@\n  \n; c\n",
    },
}


def configurations() -> dict[str, bytes]:
    """The examples, and what YAML offers to do harm with."""
    examples = {path.stem.replace("-", "_"): path.read_bytes() for path in (ROOT / "docs/examples").glob("*.yaml")}
    bomb = "a: &a [x, x]\n" + "".join(f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefgh", "bcdefghi"))  # noqa: B905
    return examples | {
        "bomb_of_aliases": bomb.encode(),
        "merge_key": b"groups: {a: &a {networks: [192.0.2.0/24], block: []}, b: {<<: *a}}\n",
        "deep": b"lists: " + b"[" * 2_000,
        "deep_mappings": b"{a: " * 2_000,
        "huge_number": b"blocking: {ttl: " + b"9" * 3_000 + b"}\nresolve: {timeout: 1e999, max_concurrent: -0}\n",
        "tag": b"upstreams: !!python/object/apply:os.system [id]\n",
        "half_a_character": b'blocking: {text: "\\ud800"}\n',
        "control_characters": b"upstreams: [192.0.2.53]\nstate: a\x1bb\n",
        "escaped_control_characters": b'groups: {"\\x1b[2J": {block: ["\\0"], networks: ["\\u202e"]}}\n"\\n": 1\n',
        "nul": b"upstreams: [192.0.2.53]\n\0",
        "utf16": "upstreams: [192.0.2.53]\n".encode("utf-16"),
        "not_utf8": b"upstreams: [192.0.2.53]\n# \xff\n",
        "mark_and_returns": b"\xef\xbb\xbfupstreams: [192.0.2.53]\r\nlog: {level: x}\r",
        "two_documents": b"upstreams: [192.0.2.53]\n---\nupstreams: [192.0.2.54]\n",
        "same_key_twice": b"lists: {a: {domains: [x.example]}, a: {domains: [y.example]}}\n",
        "key_that_is_a_list": b"? [a, b]\n: c\nlisten: {[x]: y}\n",
        "scalar": b"banned.example\n",
        "list": b"- upstreams\n",
        "empty": b"",
        "tab": b"listen:\n\tdns: [127.0.0.1]\n",
        "dates": b"exemptions: {entries: [{id: X, networks: [192.0.2.1], lists: [a], owner: o, reason: r, "
        b"approved_by: a, start: 0001-01-01T00:00, end: 9999-12-31T23:59:59}]}\ntimezone: Europe/Paris\n",
        "timezone_of_many_parts": b"timezone: " + b"a/" * 400 + b"a\n",
        "zone_path": b"timezone: ../../../etc/passwd\nstate: ../../x\n",
        "lists_in_circles": b"lists: {a: {lists: [b]}, b: {lists: [a]}, c: {lists: [c]}}\n",
        "scoped_addresses": b"upstreams: ['fe80::1%eth0', '[fe80::1%\\n]:53', '192.0.2.1:', ':53', '[::]:99999']\n",
    }


def snapshots() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """A whole snapshot and damaged ones; heads that hold something else."""
    from tests.test_snapshot import built

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.snapshot"
        snapshot.write(path, built().head, built().chunks[:2])
        whole = path.read_bytes()
    magic = whole.index(b"\n") + 1
    length = int.from_bytes(whole[magic : magic + 8], "big")
    head = whole[magic + 40 : magic + 40 + length]
    return {
        "whole": whole,
        "cut": whole[:-1],
        "octet_behind": whole + b"\0",
        "length_of_the_head_huge": whole[:magic] + b"\xff" * 8 + whole[magic + 8 :],
        "head_alone": whole[: magic + 40 + length],
        "empty": b"",
        "old": b"dnsfilter snapshot 1\n" + whole[magic:],
    }, {
        "whole": head,
        "list": b"[]",
        "null": b"null",
        "empty_object": b"{}",
        "settings_text": b'{"settings": "x"}',
        "deep": b"[" * 3_000,
        "pairs_of_numbers": head.replace(b'"pairs": [', b'"pairs": [1, '),
        "not_utf8": b'{"\xff"}',
        "huge_number": b"9" * 4_000,
    }


def documents() -> dict[str, bytes]:
    digest = "0" * 64
    good = {"sha256": digest, "entries": 1, "changed_at": 1.0, "checked_at": 1.0}
    return {
        "good": json.dumps(good).encode(),
        "wrong_digest": json.dumps({"list": "ban", "source": "s", "known": good, "digest": digest}).encode(),
        "more_fields": json.dumps(good | {"x": 1}).encode(),
        "number": b"1",
        "list": b"[]",
        "known_a_list": b'{"known": [], "digest": ""}',
        "deep": b"[" * 3_000,
        "not_utf8": b'"\xff"',
        "infinity": b'{"known": Infinity, "digest": 0}',
        "huge_number": b"9" * 4_000,
        "empty": b"",
    }


def corpus() -> dict[str, dict[str, bytes]]:
    """All of it, by target and flaw."""
    packed = gzip.compress(b"banned.example\n", mtime=0)
    whole, heads = snapshots()
    key = base64.b64encode(b"Ed12345678" + bytes(32))
    own = base64.b64encode(b"Ed12345678" + bytes(64))
    sealed = b"untrusted comment: x\n" + own + b"\ntrusted comment: y\n" + base64.b64encode(bytes(64)) + b"\n"
    return {
        "query": QUERIES,
        "step": {},
        "answer": ANSWERS,
        "complete": {},
        "addresses": {
            "hints": said(record(65, b"\0\1\0" + b"\0\4\0\4\xc6\x33\x64\1" + b"\0\6\0\x10" + bytes(16)), rtype=65),
            "hints_of_half_an_address": said(record(65, b"\0\1\0" + b"\0\4\0\6\xc6\x33\x64\1\0\0"), rtype=65),
            "hints_past_end": said(record(65, b"\0\1\0" + b"\0\4\xff\xff\xc6\x33\x64\1"), rtype=65),
            "hints_of_an_alias_form": said(record(65, b"\0\0\1a\0" + b"\0\4\0\4\xc6\x33\x64\1"), rtype=65),
            "hints_behind_a_compressed_target": said(
                record(65, b"\0\1" + POINTER + b"\0\4\0\4\xc6\x33\x64\1"), rtype=65
            ),
            "listed_address": response(WWW, "www.example 60 IN A 192.0.2.1", "www.example 60 IN A 198.51.100.7"),
            "listed_address_mapped": response(
                query("www.example", "AAAA"), "www.example 60 IN AAAA ::ffff:198.51.100.7"
            ),
            "listed_address_by_nat64": response(
                query("www.example", "AAAA"), "www.example 60 IN AAAA 64:ff9b::198.51.100.7"
            ),
            "listed_address_in_the_additional_section": response(
                query("www.example", "MX"),
                "www.example 60 IN MX 1 mail.example",
                additional=["mail.example 60 IN A 198.51.100.7", "mail.example 60 IN AAAA 2001:db8:bad::1"],
            ),
            "listed_address_in_the_authority_section": said(A[:-4] + b"\xc6\x33\x64\7", "0001 0000 0001 0000"),
            "address_for_another_type": response(query("www.example", "TXT"), "www.example 60 IN A 198.51.100.7"),
            "any": response(
                query("www.example", "ANY"), "www.example 60 IN A 198.51.100.7", 'www.example 60 IN TXT "a"'
            ),
        },
        "short_way": PAIRS,
        "stream": STREAMS,
        "http2": HTTP2,
        "upstream_text": {
            re.sub(r"\W+", "_", text).strip("_").lower()[:40] or "dots": text.encode() for text in UPSTREAM_TEXTS
        },
        "framing": {
            "two_messages": b"\1\1\1\1\1\1\1\1" + b"\0\3abc\0\2de",
            "length_0": b"\2\3\2\3\2\3\2\3" + b"\0\0\0\0\0\1a",
            "length_65535_and_little": bytes(8) + b"\xff\xff" + b"a" * 40,
            "half_a_length": b"\x7f" * 8 + b"\0\1a\0",
            "taken_late": b"\3\3\3\3\3\3\3\3" + b"\0\1a" * 20,
        },
        "name_text": {
            "plain": b"www.Example.",
            "escapes": b"a\\.b\\065\\000.example",
            "escape_above_255": b"a\\256.example",
            "escape_cut": b"a\\06",
            "backslash_at_the_end": b"a\\",
            "dot_at_the_start": b".example",
            "only_dots": b"...",
            "root": b".",
            "empty": b"",
            "other_dots": "a\u3002b\uff0ec\uff61d".encode(),
            "other_digits": "\\\u0660\u0666\u0665.example".encode(),
            "letters_that_become_dots": "a\u2024b.example".encode(),
            "letters_that_become_many": ("\ufdfa" * 10).encode(),
            "label_of_64": b"a" * 64 + b".example",
            "name_of_256": b"a." * 128,
            "idna_of_a_label_too_long": ("ü" * 60).encode(),
            "not_utf8": b"\xff.example",
        },
        "name_wire": {
            "plain": wire("www.example"),
            "any_octets": b"\5\0\x1b.\\\xff\0",
            "longest": LONG,
            "label_that_runs_off": b"\x3fabc",
            "empty": b"",
        },
        **{f"list_{name}": found for name, found in LISTS.items()},
        "list_time": {
            "open_brackets": b"\4\0x.example TXT (",
            "names_in_one_line": b"\2\x08" + b"0.0.0.0 " + b"a.example",
            "quotes": b'\1\0" \\"',
            "dots": b"\0\0a.",
            "expression": b"\0\2/(a|b.",
            "zone": b"\1\x1e@ SOA a. b. 1 2 3 4 5\n$ORIGIN a.\n" + b"x.y CNAME .",
        },
        "gunzip": {
            "one_member": packed,
            "two_members": packed * 2,
            "padding": packed + bytes(100),
            "cut": packed[:-4],
            "wrong_checksum": packed[:-8] + bytes(8),
            "bomb": gzip.compress(bytes(1_000_000), mtime=0),
            "octets_behind": packed + b"more",
            "head_alone": packed[:10],
        },
        "signed": {
            "key": key,
            "signature": sealed,
            "hashed": sealed.replace(own, base64.b64encode(b"ED12345678" + bytes(64))),
            "another_key": sealed.replace(own, base64.b64encode(b"Ed87654321" + bytes(64))),
            "returns": sealed.replace(b"\n", b"\r\n"),
            "three_lines": b"\n".join(sealed.split(b"\n")[:3]),
            "not_base64": sealed.replace(own, b"\xff" * 20),
        },
        "configuration": configurations(),
        "configuration_time": {
            "many_keys": b"\0key: [a, {b: c}]\n",
            "many_lists": b"\x07lists:\n  a: {domains: [x.example]}\n",
            "many_wrong_values": b"\x0cupstreams:\n  - nonsense\n",
            "many_groups": b"\x08groups:\n  default: {block: [a, b, c]}\n",
            "open_brackets": b"\0[",
        },
        "snapshot": whole,
        "snapshot_head": heads,
        "control": {
            "status": b'{"command": "status"}\n',
            "unknown": b'{"command": "x"}\n',
            "command_a_list": b'{"command": []}\n',
            "list": b"[]\n",
            "deep": b"[" * 3_000,
            "huge_number": b"9" * 4_000 + b"\n",
            "not_utf8": b'{"command": "\xff"}\n',
            "half_a_character": b'{"command": "status", "x": "\\ud800"}\n',
            "infinity": b'{"command": "status", "x": Infinity}\n',
            "empty": b"\n",
        },
        "store": documents(),
        "store_sealed": documents(),
    }


def main(show: Callable[[str], None] = print) -> None:
    """Write what is not there yet."""
    for target, found in corpus().items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for flaw, octets in found.items():
            (folder / f"{flaw}.bin").write_bytes(octets)
        show(f"{target}: {len(found)}")


if __name__ == "__main__":
    main()
