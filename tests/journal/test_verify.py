import random

import msgspec
import pytest

from gateway.journal.verify import JournalWrong, Line, Opens, verify
from tests.journal import mutations
from tests.journal.mutations import exported, found, mutated, rehashed

OPENS: Opens = mutations.Opens()
SUITE = 3_000
"""The campaign in docs/journal.md has 100,000 and more."""


def wrong(lines: list[bytes], outside: dict[int, bytes] | None = None) -> tuple[int, str]:
    with pytest.raises(JournalWrong) as told:
        verify(lines, OPENS, outside)
    assert str(told.value).startswith(f"event {told.value.seq}: {told.value.how}: ")
    return told.value.seq, told.value.how


def chain_of(lines: list[bytes], seq: int) -> bytes:
    return bytes.fromhex(msgspec.json.decode(lines[seq], type=Line).chain)


def test_an_export_as_the_gateway_made_it_is_sound() -> None:
    proved = verify(exported(600), OPENS)
    assert (proved.first, proved.last, proved.checkpoints) == (1, 600, 2)
    assert proved.erased == 65, "erased parts don't break the chain"


def test_the_chain_is_verified_over_what_was_deleted_before_it() -> None:
    proved = verify(exported(40, after=300, every=16), OPENS)
    assert (proved.first, proved.last, proved.checkpoints) == (301, 340, 3)


def test_every_random_mutation_is_found() -> None:
    dice, base, opens = random.Random(20260604), exported(48, every=16), mutations.Opens()
    missed = [
        kind
        for kind, lines in (mutated(base, dice) for _ in range(SUITE))
        if found(lines, opens) is None
    ]
    assert missed == []


def test_the_first_wrong_event_is_named_and_how() -> None:
    base = exported(48, every=16)
    changed = list(base)
    changed[10] = changed[10].replace(b"door-10", b"door-11")
    assert wrong(changed) == (10, "changed")
    assert wrong(base[:10] + base[11:]) == (10, "missing")
    assert wrong([*base[:10], base[11], base[10], *base[12:]]) == (10, "reordered")
    assert wrong([*base[:10], base[4], *base[10:]]) == (10, "inserted")
    assert wrong([*base[:10], changed[10], *base[10:]]) == (10, "inserted")
    assert wrong(base[:30]) == (30, "cut")
    assert wrong([*base[:30], base[-1]]) == (30, "missing")
    assert wrong([*base, base[3]]) == (49, "inserted")
    assert wrong([base[0].replace(b"LON", b"lon"), *base[1:]]) == (0, "changed")
    renumbered = [*base[:10], base[10].replace(b'"seq":10,', b'"seq":12,'), *base[11:]]
    assert wrong(renumbered) == (10, "changed")


def test_who_chains_it_anew_without_the_key_is_found_at_the_next_checkpoint() -> None:
    base = exported(48, every=16)
    forged = list(base)
    forged[20] = forged[20].replace(b'"trust":2', b'"trust":3')
    assert wrong(rehashed(forged, 20)) == (17, "changed")
    # Behind the last checkpoint it is the seal that tells.
    late = list(base)
    late[40] = late[40].replace(b'"trust":2', b'"trust":3')
    assert wrong(rehashed(late, 40)) == (33, "changed")


def test_an_export_that_was_sealed_before_the_cut_is_held_against_the_clouds_checkpoints() -> None:
    whole = exported(48, every=16)
    old = exported(30, every=16)
    assert verify(old, OPENS, {16: chain_of(whole, 16)}).last == 30
    assert wrong(old, {32: chain_of(whole, 32)}) == (31, "cut")
    assert wrong(old, {16: bytes(32)})[1] == "changed"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{}\n",
        b"not json\n",
        b'{"journal":1,"site":"L","gateway":"g","stream":"s","after":0,"anchor":"00"}\n',
        b'{"journal":2,"site":"L","gateway":"g","stream":"s","after":0,"anchor":"zz"}\n',
        b'{"journal":2,"site":"L","gateway":"g","stream":"s","after":0,"anchor":"%064d"}\n' % 0,
    ],
)  # fmt: skip
def test_a_file_without_its_header_is_no_journal(header: bytes) -> None:
    assert wrong([header, *exported(3)[1:]]) == (0, "changed")


def test_a_line_of_absurd_length_is_not_parsed() -> None:
    base = exported(3)
    assert wrong([base[0], b'{"seq":1,' + b" " * 70_000, *base[2:]]) == (1, "changed")


def test_a_seal_of_another_export_does_not_fit() -> None:
    base, more = exported(48, every=16), exported(20, after=300, every=16)
    assert wrong([*base[:-1], more[-1]]) == (1, "cut")
    assert wrong([*base[:-1], exported(30, every=16)[-1]]) == (31, "inserted")
    assert wrong([*base[:-1], base[-1].replace(b"=", b"!")])[1] == "changed"
