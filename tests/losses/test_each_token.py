"""Values and slopes token by token, where sums over tokens would hide a mistake."""

import pytest
import torch

from asu_lora.losses import forget_loss
from asu_lora.losses.answers import Answers
from asu_lora.losses.forget.me import kl_from_uniform
from asu_lora.losses.token_kl import _Divergence


def test_each_token_has_its_own_distance_from_uniform():
    torch.manual_seed(0)
    logits = 3 * torch.randn(5, 7, dtype=torch.float64)
    uniform = torch.full((7,), 1 / 7, dtype=torch.float64)
    expected = torch.stack([(uniform * (uniform.log() - row.log_softmax(0))).sum() for row in logits])
    torch.testing.assert_close(kl_from_uniform(logits), expected)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_slope_of_a_divergence_is_weighted_by_what_comes_from_above(temperature):
    torch.manual_seed(0)
    logits, target = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6).log_softmax(1)
    weights = torch.tensor([0.5, 2.0, -1.0, 3.0])
    (found,) = torch.autograd.grad(_Divergence.apply(logits, target.clone(), temperature), logits, weights)
    plain = temperature**2 * (target.exp() * (target - (logits / temperature).log_softmax(1))).sum(1)
    (expected,) = torch.autograd.grad(plain, logits, weights)
    torch.testing.assert_close(found, expected)


def test_only_a_loss_that_rules_out_asks_for_the_table_of_it():
    assert forget_loss("asu").needs == {"answer": ("teacher",)}
    assert forget_loss("asu", rule_out=True).needs == {"answer": ("teacher", "ruled_out")}
    assert forget_loss("asu+idk").needs == {"answer": ("teacher",), "idk": ()}
    assert forget_loss("asu+idk", rule_out=True).needs == {"answer": ("teacher", "ruled_out"), "idk": ()}


def test_places_are_counted_from_the_end_of_each_row():
    row = torch.tensor([0, 0, 0, 1, 2, 2])
    answers = Answers(None, torch.zeros(6, 1), row, row, 3)
    assert answers.places_left().tolist() == [2, 1, 0, 0, 1, 0]
