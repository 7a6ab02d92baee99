"""Rows into padded passes: every row once, little padding, and the same states as row by row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asu_lora.batches.forward_passes import forward_passes
from asu_lora.batches.padding import SMALLEST_PASS, even_parts, length_groups, pad_group
from asu_lora.data.encoding import Encoded
from asu_lora.models.decoder import answer_hidden

lengths = st.lists(st.integers(2, 300), max_size=40)


@settings(max_examples=200, deadline=None)
@given(lengths=lengths, most=st.none() | st.integers(1, 2000))
def test_groups_hold_every_row_once_and_keep_to_their_size(lengths, most):
    groups = length_groups(lengths, most)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        width = max(lengths[index] for index in group)
        assert width == lengths[group[0]]
        assert most is None or len(group) == 1 or width * len(group) <= most


@settings(max_examples=200, deadline=None)
@given(lengths=lengths)
def test_padding_is_small_where_it_would_cost(lengths):
    for group in length_groups(lengths):
        width = lengths[group[0]]
        for rows in range(1, len(group)):
            size = width * rows
            padding = sum(width - lengths[index] for index in group[: rows + 1])
            assert size < SMALLEST_PASS or padding <= 0.1 * size


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(1, 300), max_size=30), most=st.integers(1, 2000))
def test_even_parts_are_few_and_hold_every_row_once(sizes, most):
    parts = even_parts(sizes, most)
    assert [index for part in parts for index in part] == list(range(len(sizes)))
    totals = [sum(sizes[i] for i in part) for part in parts]
    assert all(total <= most or len(part) == 1 for total, part in zip(totals, parts, strict=True))
    # no cut at other places has fewer parts, or as few and a smaller largest one
    filled = [0]
    for size in sizes:
        if filled[-1] and filled[-1] + size > max(totals) - 1:  # with a little less room
            filled.append(0)
        filled[-1] += size
    assert not sizes or len(filled) > len(parts) or max(filled) >= max(totals)


def test_parts_are_even():
    assert even_parts([100] * 6, 500) == [[0, 1, 2], [3, 4, 5]]
    assert even_parts([600, 100, 100], 500) == [[0], [1, 2]]
    assert even_parts([], 500) == []


def test_like_lengths_share_a_pass():
    assert length_groups([100] * 7) == [list(range(7))]
    assert [sorted(group) for group in length_groups([300, 20, 300, 21])] == [[0, 2], [1, 3]]
    assert length_groups([]) == []
    assert length_groups([50, 50, 50], most_tokens=100) == [[0, 1], [2]]
    assert length_groups([50, 50], most_tokens=10) == [[0], [1]]


def test_positions_are_where_answer_tokens_are_predicted():
    batch = pad_group([Encoded((1, 2, 3), (4, 5)), Encoded((6,), (7, 8, 9))], pad_id=0)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 0, 0, 0], [6, 7, 8, 9, 0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 5 + [0] * 3, [1] * 4 + [0] * 4]
    # the state at a token predicts the next: 4 and 5 from 3 and 4; 7, 8, 9 from 6, 7, 8
    assert batch["positions"].tolist() == [2, 3, 8, 9, 10]


def test_widths_come_in_steps():
    widths = [pad_group([Encoded((1,) * size, (2,))], 0)["input_ids"].shape[1] for size in (1, 7, 8, 15, 16)]
    assert widths == [8, 8, 16, 16, 24]


def test_a_padding_token_in_a_row_is_a_token():
    batch = pad_group([Encoded((0, 1), (0, 0)), Encoded((1,), (0,))], pad_id=0)
    assert batch["attention_mask"].sum(dim=1).tolist() == [4, 2]


@pytest.mark.parametrize("most_tokens", [None, 40])
def test_states_are_those_of_each_row_alone(tiny_base, most_tokens):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    items = [
        Encoded(
            tuple(torch.randint(256, (prompt,), generator=generator).tolist()),
            tuple(torch.randint(256, (answer,), generator=generator).tolist()),
        )
        for prompt, answer in ((3, 9), (12, 1), (1, 30), (5, 5), (20, 15))
    ]
    seen = 0
    with torch.no_grad():
        for group, batch in forward_passes(items, 257, most_tokens):
            parts = answer_hidden(model.get_decoder(), batch).split([len(items[i].answer_ids) for i in group])
            for index, states in zip(group, parts, strict=True):
                item = items[index]
                ids = torch.tensor([item.prompt_ids + item.answer_ids])
                alone = model.get_decoder()(input_ids=ids).last_hidden_state[0, len(item.prompt_ids) - 1 : -1]
                torch.testing.assert_close(states, alone, atol=1e-5, rtol=1e-4)
                seen += 1
    assert seen == len(items)
