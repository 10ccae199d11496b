"""The product and the reference, written apart, say the same on random sites."""

import pytest

from tests.reference.compare import (
    carried_decisions,
    decisions,
    forms,
    refusals,
    remote_decisions,
)


@pytest.mark.parametrize("first", range(0, 24, 8))
def test_decisions_and_explanations_agree_on_random_sites(first: int) -> None:
    for seed in range(first, first + 8):
        assert not list(decisions(seed, requests=200, explained=5))


def test_decisions_by_carried_grants_agree_on_random_sites() -> None:
    for seed in range(20):
        assert not list(carried_decisions(seed, requests=100))


def test_decisions_on_requests_from_afar_agree_on_random_sites() -> None:
    for seed in range(20):
        assert not list(remote_decisions(seed, requests=100))


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_a_broken_set_has_the_same_faults(first: int) -> None:
    for seed in range(first, first + 50):
        assert not list(refusals(seed))


def test_the_same_forms_of_request_are_refused() -> None:
    for seed in range(60):
        assert not list(forms(seed))
