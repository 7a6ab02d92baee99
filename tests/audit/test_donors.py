"""The rows that stand in for the forgotten: spread evenly, and only those taken apart that are needed."""

from dataclasses import replace

import pytest

from asu_lora.audit.donors import Donors
from asu_lora.audit.session import AuditRow, Inputs, Session
from asu_lora.data.examples import Example
from asu_lora.errors import DataError

EXAMPLES = [Example(({"role": "user", "content": f"Who is {number}?"},), f"It is {number}.") for number in range(20)]


def donors(without=()):
    looked_at = []

    def row(number, example):
        looked_at.append(number)
        return None if number in without else AuditRow(number, example, (), ())

    return Donors(EXAMPLES, row), looked_at


def numbers(rows):
    return [row.number for row in rows]


@pytest.mark.parametrize(("count", "expected"), [(4, [0, 5, 10, 15]), (0, []), (1, [0]), (25, [*range(20), *range(5)])])
def test_they_are_spread_evenly_and_no_other_is_taken_apart(count, expected):
    found, looked_at = donors()
    assert numbers(found.spread(count)) == expected
    assert looked_at == sorted(set(expected))
    assert numbers(found.spread(count)) == expected and len(looked_at) == len(set(expected))  # each once


def test_a_row_without_a_fact_gives_way_to_the_next_that_is_free():
    found, _ = donors(without={5, 6, 15, 16, 17, 18, 19})
    assert numbers(found.spread(4)) == [0, 7, 10, 1]
    assert sorted(numbers(found.spread(13))) == numbers(found), "no row twice as long as there are others"
    assert len(found.spread(15)) == 15
    assert numbers(found) == [each for each in range(15) if each not in (5, 6)]


def test_where_no_row_has_a_fact_none_stands_in():
    found, looked_at = donors(without=set(range(20)))
    assert found.spread(3) == [] and list(found) == [] and looked_at == list(range(20))
    assert Donors([], lambda number, example: None).spread(3) == []


def test_marks_that_can_not_be_read_are_said_whichever_rows_stand_in():
    broken = replace(EXAMPLES[13], extra={"aliases": "[1"})
    session = Session(Inputs(EXAMPLES[:1], [*EXAMPLES[:13], broken, *EXAMPLES[14:]]), None, None)
    with pytest.raises(DataError, match="aliases"):
        session.swapped([])
