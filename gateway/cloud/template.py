"""A folder to begin with: the recommended groups of a location, and an example of each row.

Source of the groups: the door-access model, "Recommended default group set (per location)".
"""

import re
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.errors import GatewayError

_LOCATION = re.compile(r"[A-Z0-9][A-Z0-9-]{0,15}")

_FILES = {
    "settings.csv": """\
setting,value
location,LOC
timezone,TIMEZONE
access_from,active
booking_before_min,15
booking_after_min,5
grace_hours,72
lockdown_exempt_personas,staff
untrusted_clock,deny_timebound
bookings_ahead_days,30
""",
    "zones.csv": """\
zone,category,name
street,public,Street
lobby,public,Lobby and reception
lounge,member,"Lounge, kitchen and phone booths"
meeting-1,bookable,Meeting room 1
meeting-2,bookable,Meeting room 2
suite-a,tenant-only,Suite A
comms,restricted,Comms room and storage
""",
    "doors.csv": """\
door,from_zone,zone,criticality,entitlement,enforcement,schedule_rule,access_groups,booking_based,\
name,unlock_schedule,unlock_after_first,second_factor_schedule
street,street,lobby,High,CRM,door-gateway,BH; 24x7; NIGHT; booking-based,\
LOC | MEMBERS | AMENITIES | BH; LOC | MEMBERS | FULL | 24x7; \
LOC | BOOKINGS | AMENITIES | TIMEBOUND; LOC | BOOKINGS | BOOKABLE | TIMEBOUND; \
LOC | TENANTS | SUITE A | 24x7; LOC | STAFF | RESTRICTED | 24x7; \
LOC | CONTRACTORS | RESTRICTED | NIGHT,Yes,Street door,BH,yes,
lounge,lobby,lounge,Med,CRM,door-gateway,BH; 24x7; NIGHT; booking-based,\
LOC | MEMBERS | AMENITIES | BH; LOC | MEMBERS | FULL | 24x7; \
LOC | BOOKINGS | AMENITIES | TIMEBOUND; \
LOC | TENANTS | SUITE A | 24x7; LOC | STAFF | RESTRICTED | 24x7; \
LOC | CONTRACTORS | RESTRICTED | NIGHT,Yes,Lounge,,,
meeting-1,lobby,meeting-1,Med,CRM,door-gateway,24x7; booking-based,\
LOC | BOOKINGS | BOOKABLE | TIMEBOUND; LOC | STAFF | RESTRICTED | 24x7,Yes,Meeting room 1,,,
meeting-2,lobby,meeting-2,Med,CRM,door-gateway,24x7; booking-based,\
LOC | BOOKINGS | BOOKABLE | TIMEBOUND; LOC | STAFF | RESTRICTED | 24x7,Yes,Meeting room 2,,,
suite-a,lounge,suite-a,High,CRM,door-gateway,24x7,\
LOC | TENANTS | SUITE A | 24x7; LOC | STAFF | RESTRICTED | 24x7,No,Suite A,,,
comms,lounge,comms,High,CRM,door-gateway,24x7; NIGHT,\
LOC | STAFF | RESTRICTED | 24x7; LOC | CONTRACTORS | RESTRICTED | NIGHT,No,Comms room,,,24x7
""",
    "groups.csv": """\
group,schedule
LOC | MEMBERS | AMENITIES | BH,BH
LOC | MEMBERS | FULL | 24x7,24x7
LOC | BOOKINGS | AMENITIES | TIMEBOUND,booking-based
LOC | BOOKINGS | BOOKABLE | TIMEBOUND,booking-based
LOC | TENANTS | SUITE A | 24x7,24x7
LOC | STAFF | RESTRICTED | 24x7,24x7
LOC | CONTRACTORS | RESTRICTED | NIGHT,NIGHT
""",
    "schedules.csv": """\
schedule,days,opens,closes,timezone
BH,mon-fri,08:00,19:00,
BH,holiday:public,,,
NIGHT,mon-sun,20:00,06:00,
""",
    "holidays.csv": """\
calendar,date,name
public,2026-12-25,Christmas Day
public,2027-01-01,New Year's Day
""",
    "members.csv": """\
member,persona,membership,paid,first_day,last_day,delinquent_since,groups,name,email
sam,staff,active,,,,,LOC | STAFF | RESTRICTED | 24x7,Sam,sam@example.com
maya,member,active,,2026-11-01,,,LOC | MEMBERS | AMENITIES | BH,Maya,maya@example.com
finn,member,active,,,,,LOC | MEMBERS | FULL | 24x7; LOC | BOOKINGS | BOOKABLE | TIMEBOUND,\
Finn,finn@example.com
pia,member,cancelled,,,2027-03-31,,LOC | MEMBERS | AMENITIES | BH,Pia,
dora,member,delinquent,,,,2027-01-04,LOC | MEMBERS | AMENITIES | BH,Dora,
nils,member,pending,,2027-02-01,,,LOC | MEMBERS | FULL | 24x7,Nils,
olga,office,active,,,,,LOC | TENANTS | SUITE A | 24x7,Olga,
ben,booker,active,,,,,LOC | BOOKINGS | BOOKABLE | TIMEBOUND,Ben,ben@example.com
dana,daypass,active,,,,,LOC | BOOKINGS | AMENITIES | TIMEBOUND,Dana,
carl,contractor,active,,,2027-12-31,,LOC | CONTRACTORS | RESTRICTED | NIGHT,Carl,
vera,visitor,active,,,,,,Vera,
""",
    "credentials.csv": """\
credential,member,kind,value,status,first_day,last_day,duress,max_uses
card-sam,sam,uid,04A10000000001,active,,,,
pin-sam,sam,pin,824613,active,,,,
pin-sam-duress,sam,pin,824614,active,,,yes,
card-maya,maya,uid,04A10000000002,active,,,,
card-maya-lost,maya,uid,04A10000000003,lost,,,,
card-finn,finn,wiegand,H10301:12:34567,active,,,,
card-pia,pia,uid,04A10000000004,active,,2027-03-31,,
card-dora,dora,uid,04A10000000005,active,,,,
card-nils,nils,uid,04A10000000006,active,,,,
card-olga,olga,uid,04A10000000007,active,,,,
card-ben,ben,uid,04A10000000008,active,,,,
code-dana,dana,qr,DAYPASS-7Q2M9X4K,active,2027-01-11,2027-01-11,,
card-carl,carl,uid,04A10000000009,active,,,,
pin-carl,carl,pin,571902,active,,,,
code-vera,vera,qr,VISITOR-3H8T5W1C,active,,,,1
""",
    "bookings.csv": """\
booking,members,zones,doors,start,end,before_min,after_min,status
room-1001,ben,meeting-1,,2027-01-12 14:00,2027-01-12 16:00,,,confirmed
room-1002,ben; finn,meeting-2,,2027-01-13T09:00:00Z,2027-01-13T10:00:00Z,10,0,confirmed
room-1003,finn,meeting-1,,2027-01-14 11:00,2027-01-14 12:00,,,cancelled
""",
    "daypasses.csv": """\
pass,member,day,zones,schedule
day-2001,dana,2027-01-11,lobby; lounge,BH
""",
    "shifts.csv": """\
shift,member,start,end,zones,doors
shift-3001,carl,2027-01-16 10:00,2027-01-16 14:00,lobby; lounge; comms,
""",
    "exceptions.csv": """\
exception,member,effect,zones,doors,from,until,reason,issued_by
interview,vera,allow,,street,2027-01-12 09:30,2027-01-12 11:00,job interview,sam
""",
    "calendars.csv": """\
file,zones,doors
""",
}


def starting_folder(location: str, timezone: str) -> dict[str, str]:
    """The text of each file, by its name.

    Raises:
        GatewayError: `location` can't begin a group's name, or there is no such time zone.
    """
    if not _LOCATION.fullmatch(location):
        raise GatewayError(f"{location!r} is no location code such as LON or NYC-2")
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise GatewayError(
            f"{timezone!r} is no IANA time zone: give one such as Europe/London"
        ) from error
    return {
        name: re.sub(r"\bLOC\b", location, text).replace("TIMEZONE", timezone)
        for name, text in _FILES.items()
    }


def write_folder(folder: Path, files: dict[str, str]) -> None:
    """Write the files into a folder that is not there yet, or empty.

    Raises:
        GatewayError: there is something in it, or it can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise GatewayError(f"{folder}: is not empty: name another folder")
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise GatewayError(f"{folder}: can't be written: {error.strerror}") from error
