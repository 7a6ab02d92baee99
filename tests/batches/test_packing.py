"""Rows packed end to end: which lines they make, and a pass of them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from asu_lora.batches.forward_passes import forward_passes
from asu_lora.batches.packing import lines_of, pack_group
from asu_lora.batches.padding import padded_length
from asu_lora.data.encoding import Encoded


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_lines_hold_every_row_once_and_waste_no_more_than_padding(lengths):
    lines, width = lines_of(lengths)
    assert sorted(index for line in lines for index in line) == list(range(len(lengths)))
    assert max(sum(lengths[i] for i in line) for line in lines) <= width and width % 8 == 0
    assert width <= 2 * padded_length(max(lengths))
    assert len(lines) * width <= len(lengths) * padded_length(max(lengths))
    lines, width = lines_of(lengths, "line")
    assert lines == [list(range(len(lengths)))] and sum(lengths) <= width < sum(lengths) + 8


def test_lines_are_as_wide_as_leaves_the_fewest_tokens():
    assert lines_of([8, 8, 8]) == ([[0], [1], [2]], 8)
    assert lines_of([16, 8, 8, 16]) == ([[0], [3], [1, 2]], 16)
    assert lines_of([24, 9, 7]) == ([[0, 1, 2]], 40)
    assert lines_of([24, 15, 9, 24]) == ([[0], [3], [1, 2]], 24)
    assert lines_of([17, 7, 7, 1]) == ([[0, 1, 2, 3]], 32)


def test_a_packed_pass():
    batch = pack_group([[Encoded((1, 2), (3, 4)), Encoded((5,), (6,))], [Encoded((7, 8, 9), (10,))]], pad_id=0)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 0, 0], [7, 8, 9, 10, 0, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 0, 1], [0, 1, 2, 3, 0, 1, 2, 3]]
    assert batch["starts"].tolist() == [0, 4, 8]
    assert batch["positions"].tolist() == [1, 2, 4, 10]
    assert "attention_mask" not in batch


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=12),
    st.sampled_from(["lines", "line"]),
    st.sampled_from([None, 1, 50, 120]),
)
def test_passes_hold_every_row_once_and_their_states_where_they_lie(sizes, packing, most):
    items = [Encoded((row + 1,) * prompt, (row + 1,) * answer) for row, (prompt, answer) in enumerate(sizes)]
    entries = [torch.full((len(item), 2), row + 1.0) for row, item in enumerate(items)]
    seen = []
    for group, batch in forward_passes(items, 0, most, entries, packing=packing):
        assert most is None or len(group) == 1 or sum(len(items[i]) for i in group) <= most
        assert torch.equal(batch["entry"][..., 0], batch["input_ids"].float())
        assert batch["input_ids"].flatten()[batch["positions"]].tolist() == [
            index + 1 for index in group for _ in items[index].answer_ids
        ]
        assert batch["input_ids"].flatten()[batch["starts"]].tolist() == [index + 1 for index in group]
        assert (batch["position_ids"].flatten()[batch["starts"]] == 0).all()
        seen += group
    assert sorted(seen) == list(range(len(items)))
