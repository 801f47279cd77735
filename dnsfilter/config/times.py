"""Days and local times as an admin writes them, to seconds since the epoch. Reads no clock.

A day starts at its first moment and counts to its end; a time as an end is the first
moment without. Where clocks change, doubt starts later and ends sooner: of a time that
comes twice, or that is skipped, a start is the later reading and an end the earlier one.
"""

import re
from datetime import UTC, datetime, timedelta, tzinfo

from dnsfilter.config.problems import Wrong, shown

_WRITTEN = re.compile(
    r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:T(?P<time>[0-9]{2}:[0-9]{2}(?::[0-9]{2})?)(?P<offset>Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
_FORMS = "write a day, 2026-05-04, or a local time, 2026-05-04T08:00"
_DAY = timedelta(days=1)
_FIRST, _LAST = 1970, 9998  # years; beyond them the arithmetic of time zones overflows


def start(text: str, zone: tzinfo) -> float:
    """Return the first moment that `text` as a start includes. Raises Wrong."""
    local, is_day = _parse(text)
    if local.tzinfo is not None:
        return local.timestamp()
    return _day(local, zone, later=True) if is_day else max(_readings(local, zone))


def end(text: str, zone: tzinfo) -> float:
    """Return the first moment that `text` as an end leaves out. Raises Wrong."""
    local, is_day = _parse(text)
    if local.tzinfo is not None:
        return local.timestamp()
    return _day(local + _DAY, zone, later=False) if is_day else min(_readings(local, zone))


def _parse(text: str) -> tuple[datetime, bool]:
    """Return the moment as written, without a zone unless it has an offset; and whether it is a whole day."""
    if (match := _WRITTEN.fullmatch(text)) is None:
        raise Wrong(f"{shown(text)} is neither a day nor a time", _remedy(text))
    offset = (match["offset"] or "").replace("Z", "+00:00")
    try:
        found = datetime.fromisoformat(f"{match['day']}T{match['time'] or '00:00'}{offset}")
    except ValueError as error:  # its words: "day is out of range for month", "hour must be in 0..23"
        raise Wrong(f"{shown(text)} does not exist: {error}", _remedy(text)) from None
    if not _FIRST <= found.year <= _LAST:
        raise Wrong(f"{shown(text)} is out of reach", f"write a year from {_FIRST} to {_LAST}")
    return found, match["time"] is None


def _remedy(text: str) -> str:
    if "T24:00" in text:
        return "the end of a day is the day itself, without a time; midnight is T00:00 of the next day"
    if _WRITTEN.fullmatch(fixed := text.strip().upper().replace(" ", "T", 1)):
        return f"write {fixed}" if fixed != text else _FORMS
    return _FORMS


def _readings(local: datetime, zone: tzinfo) -> tuple[float, float]:
    """Return the two moments that a local time may mean (PEP 495); the same one, but where clocks change."""
    return tuple(  # type: ignore[return-value]  # of length two
        local.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1)
    )


def _day(midnight: datetime, zone: tzinfo, *, later: bool) -> float:
    """Return the moment between two days, for an end (not later) or a start (later).

    Where clocks skip midnight (Cairo, Beirut) there is no doubt: the days meet at the change.
    """
    before, after = _readings(midnight, zone)
    if before <= after:  # equal, or midnight comes twice
        return after if later else before
    low, high = int(after), int(before)  # skipped: the change lies in between, look for it
    old = datetime.fromtimestamp(low, zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == old:
            low = middle
        else:
            high = middle
    return float(high)


def local_length(start_s: float, end_s: float, zone: tzinfo) -> float:
    """Return the seconds that calendar and clock of `zone` show between two moments: a day is always 24 hours."""
    shown_start, shown_end = (
        datetime.fromtimestamp(moment, UTC).astimezone(zone).replace(tzinfo=None) for moment in (start_s, end_s)
    )
    return (shown_end - shown_start).total_seconds()
