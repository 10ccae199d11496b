from datetime import UTC, datetime, timedelta, timezone

import pytest

from gateway.trust import NotAdmitted, Source, admission, admit

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def test_a_local_operators_file_is_admitted_as_it_is() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    admitted = admit(b"anything", Source.LOCAL_FILE, elsewhere)
    assert admitted == (b"anything", NOON, Source.LOCAL_FILE)
    assert admitted.as_of.tzinfo is UTC


def test_nothing_unsigned_is_admitted_from_the_cloud() -> None:
    with pytest.raises(NotAdmitted, match="must be signed"):
        admit(b"anything", Source.CLOUD, NOON)


def test_an_empty_file_is_not_a_set_of_no_records() -> None:
    with pytest.raises(NotAdmitted, match="empty"):
        admit(b"", Source.LOCAL_FILE, NOON)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "ENVELOPE_BYTES_MAX", 10)
    assert admit(b"x" * 10, Source.LOCAL_FILE, NOON)
    with pytest.raises(NotAdmitted, match="no more than 10"):
        admit(b"x" * 11, Source.LOCAL_FILE, NOON)


def test_a_moment_without_an_offset_is_refused() -> None:
    with pytest.raises(NotAdmitted, match="offset"):
        admit(b"x", Source.LOCAL_FILE, NOON.replace(tzinfo=None))
