"""Entitlement records as they arrive, JSON Lines: every fault is named, or there is none."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple, TypeVar

from gateway.domain.entitlements import ValidRecords
from gateway.domain.json_text import JsonError, decode_object
from gateway.domain.record_forms import FORMS, Form, References, Values, WrongMemberError
from gateway.domain.records import (
    TIMEBOUND,
    AccessException,
    Booking,
    Calendar,
    Credential,
    Door,
    Group,
    Holder,
    Policy,
    Record,
    Schedule,
    Site,
    SiteTables,
    Zone,
)
from gateway.errors import RecordFault, RecordsRefused

_R = TypeVar("_R", bound=Record)

_NONE = "-"
"""Stands in a fault for what doesn't apply."""


class LintWarning(NamedTuple):
    """Something odd in a record that is no fault."""

    type: str
    id: str
    member: str
    what: str


class ParsedRecords(NamedTuple):
    """A set of records without a fault."""

    records: ValidRecords
    warnings: tuple[LintWarning, ...]


_EXACTLY_ONE = ("site", "policy")


def parse_records(lines: Iterable[bytes | str], site: str | None = None) -> ParsedRecords:
    """Read the records that stand on `lines`, one JSON object each, as one set.

    `site` is the id of the site that they are for, where the caller knows it. It is compared as it
    is, code point by code point: no case, space or look-alike letter is forgiven.

    Raises:
        RecordsRefused: It has faults: every one, in the order of the lines.
    """
    reading = _Reading(site)
    for number, line in enumerate(lines, 1):
        reading.read_line(number, line)
    return reading.finish()


class _Place(NamedTuple):
    """Where a record stands, and which it is, as far as it says."""

    line: int
    type: str
    id: str


class _Reference(NamedTuple):
    """A member that names other records, which may stand on later lines."""

    place: _Place
    member: str
    references: References
    value: object


class _Reading:
    """A set of records while its lines are read."""

    def __init__(self, site: str | None = None) -> None:
        self._site = site
        self._faults: list[tuple[int, RecordFault]] = []
        """Each with the number of its line."""
        self._warnings: list[LintWarning] = []
        self._records: defaultdict[str, dict[str, Record | None]] = defaultdict(dict)
        """By type and id; None where the record has a fault: it is there none the less."""
        self._types_seen: set[str] = set()
        self._live: dict[tuple[object, object], str] = {}
        """The id of the credential with a kind and value that is other than `returned`."""
        self._references: list[_Reference] = []

    def read_line(self, number: int, line: bytes | str) -> None:
        """Take the record on one line, and note what is wrong with it."""
        try:
            members, repeated = decode_object(line)
        except JsonError as error:
            self._note(_Place(number, _NONE, _NONE), {_NONE: f"line {number}: {error}"})
            return
        wrong = dict.fromkeys(sorted(repeated), "given twice")
        record_type = members.get("type")
        record_id = members.get("id")
        if not isinstance(record_id, str) or not record_id:
            wrong.setdefault("id", "not a non-empty string" if "id" in members else "missing")
            record_id = None
        if not isinstance(record_type, str):
            wrong.setdefault("type", "not a string" if "type" in members else "missing")
            self._note(_Place(number, _NONE, record_id or _NONE), wrong)
            return

        there = self._records[record_type]
        if record_id in there:
            wrong.setdefault("id", f"a second {record_type} with this id")
        elif record_type in _EXACTLY_ONE and record_type in self._types_seen:
            wrong.setdefault("id", f"a second {record_type}")
        elif record_type == "site" and record_id and self._site not in (None, record_id):
            wrong.setdefault("id", other_site(record_id, str(self._site)))
        self._types_seen.add(record_type)
        place = _Place(number, record_type, record_id or _NONE)
        record = None
        form = FORMS.get(record_type)
        if form is None:
            wrong.setdefault("type", "no such type of record")
        else:
            values = self._read_members(place, form, members, wrong)
            if not wrong:
                record = form.struct(id=record_id, **values)
        if record_id is not None:
            there.setdefault(record_id, record)
        self._note(place, wrong)

    def finish(self) -> ParsedRecords:
        """The set, when all lines are read.

        Raises:
            RecordsRefused: It has faults.
        """
        for reference in self._references:
            self._look_up(reference)
        faults = [fault for _, fault in sorted(self._faults, key=itemgetter(0))]
        faults += [
            RecordFault(missing, _NONE, _NONE, f"no {missing} record")
            for missing in _EXACTLY_ONE
            if missing not in self._types_seen
        ]
        if faults:
            raise RecordsRefused(faults)
        records = ValidRecords(
            tables=SiteTables(
                site=next(iter(self._all_of("site", Site).values())),
                policy=self._all_of("policy", Policy)["policy"],
                zones=self._all_of("zone", Zone),
                doors=self._all_of("door", Door),
                calendars=self._all_of("calendar", Calendar),
                schedules=self._all_of("schedule", Schedule),
                groups=self._all_of("group", Group),
            ),
            holders=self._all_of("holder", Holder),
            credentials=self._all_of("credential", Credential),
            bookings=self._all_of("booking", Booking),
            exceptions=self._all_of("exception", AccessException),
        )
        return ParsedRecords(records, (*self._warnings, *_group_names(records.tables)))

    def _read_members(
        self, place: _Place, form: Form, members: dict[str, object], wrong: dict[str, str]
    ) -> Values:
        """The struct's fields that the record has; what is wrong goes to `wrong`, by member."""
        values: Values = {}
        known = ("type" in members) + ("id" in members)
        for name, read, required, nullable, field, references in form.members:
            raw = members.get(name)
            if raw is None:
                if name in members:
                    known += 1
                    if not nullable:
                        wrong.setdefault(name, "null")
                elif required:
                    wrong.setdefault(name, "missing")
                continue
            known += 1
            try:
                value = values[field] = read(raw)
            except WrongMemberError as error:
                wrong.setdefault(name, str(error))
                continue
            if references is not None:
                self._references.append(_Reference(place, name, references, value))
        for name, what in form.check(place.id, values):
            wrong.setdefault(name, what)
        if place.type == "credential" and not wrong.keys() & {"kind", "value", "status"}:
            self._check_value_is_free(place.id, values, wrong)
        if len(members) > known:
            names = {"type", "id", *(member.name for member in form.members)}
            self._warnings.extend(
                LintWarning(place.type, _printable(place.id), _printable(name), "no such member")
                for name in members
                if name not in names
            )
        return values

    def _check_value_is_free(
        self, credential_id: str, values: Values, wrong: dict[str, str]
    ) -> None:
        """Of the credentials with one kind and value at most one may be other than `returned`."""
        if values.get("status") == "returned":
            return
        key = (values["kind"], values["value"])
        if key in self._live:
            wrong["value"] = f"in use by credential {self._live[key]!r}"
        else:
            self._live[key] = credential_id

    def _look_up(self, reference: _Reference) -> None:
        wanted_type, ids, built_in = reference.references
        there = self._records[wanted_type]
        missing = [
            "'timebound' is for groups only"
            if wanted_type == "schedule" and wanted == TIMEBOUND
            else f"no {wanted_type} {wanted!r}"
            for wanted in dict.fromkeys(ids(reference.value))
            if wanted not in there and wanted not in built_in
        ]
        if missing:
            self._note(reference.place, {reference.member: ", ".join(missing)})

    def _note(self, place: _Place, wrong: dict[str, str]) -> None:
        for member, what in wrong.items():
            fault = RecordFault(
                _printable(place.type), _printable(place.id), _printable(member), what
            )
            self._faults.append((place.line, fault))

    def _all_of(self, record_type: str, struct: type[_R]) -> dict[str, _R]:
        """The records of one type by id, of a set without a fault."""
        records = self._records[record_type].items()
        return {name: record for name, record in records if isinstance(record, struct)}


def other_site(records: str, wanted: str) -> str:
    """Say that records are of another site; letters outside ASCII are spelt out."""
    return f"records of site {records!a}: they are refused, because this site is {wanted!a}"


_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _printable(text: str) -> str:
    """`text` for one column of one line."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def _group_names(tables: SiteTables) -> Iterator[LintWarning]:
    """Group ids outside the convention LOCATION | PERSONA | ZONE | SCHEDULE, or of another site."""
    for group_id in tables.groups:
        parts = group_id.split(" | ")
        if (
            len(parts) != 4
            or any(not part or part != part.strip() for part in parts)
            or any(part != part.upper() for part in parts[:3])
        ):
            what = "not LOCATION | PERSONA | ZONE | SCHEDULE"
        elif parts[0] != tables.site.id:
            what = f"not of site {tables.site.id!r}"
        else:
            continue
        yield LintWarning("group", _printable(group_id), "id", what)
