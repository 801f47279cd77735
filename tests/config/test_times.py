"""Days and local times to moments, above all where clocks change."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dnsfilter.config import times
from dnsfilter.config.problems import Wrong

PARIS = ZoneInfo("Europe/Paris")
# Cairo and Beirut skip midnight, Havana repeats it; Lord Howe moves by half an hour, Apia once skipped a day.
ZONES = [
    ZoneInfo(key)
    for key in (
        "UTC",
        "Europe/Paris",
        "Africa/Cairo",
        "Asia/Beirut",
        "America/Havana",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "America/Sao_Paulo",
    )
]


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "zone", "moment"),
    [
        pytest.param("2026-05-04", PARIS, "2026-05-03T22:00", id="a day starts at its midnight"),
        pytest.param("2026-05-04T08:00", PARIS, "2026-05-04T06:00", id="a local time in summer"),
        pytest.param("2026-01-04T08:00:30", PARIS, "2026-01-04T07:00:30", id="seconds, in winter"),
        pytest.param("2026-05-04T08:00Z", PARIS, "2026-05-04T08:00", id="Z is UTC, whatever the zone"),
        pytest.param("2026-05-04T08:00+05:30", PARIS, "2026-05-04T02:30", id="an offset counts, whatever the zone"),
        pytest.param("2027-03-28T02:30", PARIS, "2027-03-28T01:30", id="a skipped time starts later"),
        pytest.param("2027-10-31T02:30", PARIS, "2027-10-31T01:30", id="a time that comes twice starts at the second"),
        pytest.param("2026-04-24", ZoneInfo("Africa/Cairo"), "2026-04-23T22:00", id="a day without midnight, at 01:00"),
        pytest.param("2026-11-01", ZoneInfo("America/Havana"), "2026-11-01T05:00", id="midnight twice, at the second"),
    ],
)
def test_a_start_is_the_first_moment_with(text: str, zone: ZoneInfo, moment: str) -> None:
    assert times.start(text, zone) == utc(moment)


@pytest.mark.parametrize(
    ("text", "zone", "moment"),
    [
        pytest.param("2026-05-08", PARIS, "2026-05-08T22:00", id="a day counts to its end"),
        pytest.param("2026-05-08T18:00", PARIS, "2026-05-08T16:00", id="a time is the first moment without"),
        pytest.param("2026-03-29", PARIS, "2026-03-29T22:00", id="the day of 23 hours"),
        pytest.param("2026-10-25", PARIS, "2026-10-25T23:00", id="the day of 25 hours"),
        pytest.param("2027-03-28T02:30", PARIS, "2027-03-28T00:30", id="a skipped time ends sooner"),
        pytest.param("2027-10-31T02:30", PARIS, "2027-10-31T00:30", id="a time that comes twice ends at the first"),
        pytest.param(
            "2026-04-23", ZoneInfo("Africa/Cairo"), "2026-04-23T22:00", id="next midnight skipped: to the end"
        ),
        pytest.param("2026-10-31", ZoneInfo("America/Havana"), "2026-11-01T04:00", id="next midnight twice: the first"),
        pytest.param("2011-12-29", ZoneInfo("Pacific/Apia"), "2011-12-30T10:00", id="next day skipped"),
        pytest.param("9998-12-31", UTC, "9999-01-01T00:00", id="the last day of all"),
    ],
)
def test_an_end_is_the_first_moment_without(text: str, zone: ZoneInfo, moment: str) -> None:
    assert times.end(text, zone) == utc(moment)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        pytest.param("2026-02-29", "2026-05-04", id="no such day"),
        pytest.param("2026-05-04T24:00", "the next day", id="24:00"),
        pytest.param("2026-05-04T08:60", "2026-05-04T08:00", id="no such minute"),
        pytest.param("2026-05-04 08:00", "write 2026-05-04T08:00", id="a space for the T"),
        pytest.param("2026-05-04t08:00", "write 2026-05-04T08:00", id="a small t"),
        pytest.param("04.05.2026", "2026-05-04", id="the day first"),
        pytest.param("2026-5-4", "2026-05-04", id="digits missing"),
        pytest.param("2026-05-04T08", "2026-05-04", id="no minutes"),
        pytest.param("2026-05-04T08:00+25:00", "2026-05-04", id="no such offset"),
        pytest.param("9999-12-31", "9998", id="too late"),
        pytest.param("0001-01-01", "1970", id="too early"),
        pytest.param("٢٠٢٦-05-04", "2026-05-04", id="other digits"),
        pytest.param("tomorrow", "2026-05-04", id="a word"),
        pytest.param("", "2026-05-04", id="nothing"),
    ],
)
def test_what_is_no_time_is_refused_with_a_remedy(text: str, remedy: str) -> None:
    for convert in (times.start, times.end):
        with pytest.raises(Wrong) as caught:
            convert(text, PARIS)
        assert remedy in caught.value.remedy


days = st.dates(date(1971, 1, 1), date(2099, 12, 31))
moments = st.datetimes(datetime(1971, 1, 1), datetime(2099, 12, 31)).map(lambda t: t.replace(second=0, microsecond=0))
zones = st.sampled_from(ZONES)


@given(moment=moments, zone=zones)
def test_an_end_never_comes_after_a_start_of_the_same_text(moment: datetime, zone: ZoneInfo) -> None:
    text = moment.isoformat(timespec="minutes")
    assert times.end(text, zone) <= times.start(text, zone)


@given(moment=moments, zone=zones)
def test_a_time_that_exists_once_is_that_moment(moment: datetime, zone: ZoneInfo) -> None:
    local = moment.replace(tzinfo=UTC).astimezone(zone)
    assume(local.replace(fold=0).timestamp() == local.replace(fold=1).timestamp())
    text = local.replace(tzinfo=None).isoformat()
    assert times.start(text, zone) == times.end(text, zone) == moment.replace(tzinfo=UTC).timestamp()


@given(day=days, zone=zones)
def test_a_day_holds_only_moments_of_that_day(day: date, zone: ZoneInfo) -> None:
    begin, end = times.start(day.isoformat(), zone), times.end(day.isoformat(), zone)
    for moment in (begin, (begin + end) / 2, end - 1):
        if begin < end:  # Apia had no 2011-12-30 at all
            assert datetime.fromtimestamp(moment, zone).date() == day


@given(day=days, zone=zones)
def test_a_day_ends_where_the_next_one_starts_or_before(day: date, zone: ZoneInfo) -> None:
    gap = times.start((day + timedelta(days=1)).isoformat(), zone) - times.end(day.isoformat(), zone)
    assert 0 <= gap <= 3600


def test_a_length_is_what_the_calendar_says() -> None:
    begin, end = times.start("2026-10-25", PARIS), times.end("2026-10-25", PARIS)
    assert end - begin == 25 * 3600
    assert times.local_length(begin, end, PARIS) == 24 * 3600
