"""The field's further losses on fixed logits: figures worked out by hand, and what their papers promise."""

import math

import pytest
import torch

from asu_lora.config import ForgetConfig
from asu_lora.errors import SettingError
from asu_lora.forgetting.prepare import build_losses, refusals_for
from asu_lora.losses import FORGET, RETAIN, forget_loss, own_settings, retain_loss
from asu_lora.losses.answers import Answers
from asu_lora.losses.loss_settings import parse_settings, settings_text
from asu_lora.models.output_head import FrozenHead

WORDS = 3


class Plain(FrozenHead):
    """A head whose logits are the states themselves."""

    def __init__(self):
        self.name, self.scale, self.softcap, self.device = "Plain", 1.0, None, torch.device("cpu")
        self.module = torch.nn.Linear(WORDS, WORDS, bias=False).requires_grad_(False)
        self.module.weight.data = torch.eye(WORDS)


def answers(probabilities, labels, row=None, base=None):
    """Answer tokens of these probabilities (T, V): their logarithms are the states."""
    states = torch.tensor(probabilities).log().requires_grad_()
    row = torch.tensor(row or [0] * len(labels))
    references = {} if base is None else {"base": torch.tensor(base).log()}
    return Answers(Plain(), states, torch.tensor(labels), row, int(row.max()) + 1, references)


def value(loss, seen):
    return loss({view: seen for view in loss.needs}).item()


HALVES = [[0.5, 0.25, 0.25], [0.2, 0.7, 0.1]]


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        # -2/4.5 log sigmoid(-4.5 (log 0.5 + log 0.7)/2)
        ("simnpo", {}, 2 / 4.5 * math.log(1 + math.exp(2.25 * math.log(0.35)))),
        ("simnpo", {"beta": 1.0, "gamma": 1.0}, 2 * math.log(1 + math.exp(0.5 * math.log(0.35) + 1))),
        ("wga", {}, (0.5 * math.log(0.5) + 0.7 * math.log(0.7)) / 2),
        ("satimp", {}, (0.5**5 * 0.5 * math.log(0.5) + 0.7**5 * 0.3 * math.log(0.7)) / 2),
        # the second token alone: 2/3 and 1/3 are left of 0.2 and 0.1
        ("ceu", {}, -(2 / 3 * math.log(0.2) + 1 / 3 * math.log(0.1))),
        ("ceu", {"skip": 0}, -(2 / 3 * math.log(0.2) + 1 / 3 * math.log(0.1) + math.log(0.25)) / 2),
        # m = (p + 1)/2 at the token, p/2 elsewhere
        (
            "jensun",
            {},
            sum((p * math.log(2 * p / (1 + p)) + (1 - p) * math.log(2) - math.log((1 + p) / 2)) / 2 for p in (0.5, 0.7))
            / 2,
        ),
    ],
)
def test_by_hand(name, settings, expected):
    assert value(forget_loss(name, **settings), answers(HALVES, [0, 1])) == pytest.approx(expected, rel=1e-4)


def test_undial_by_hand():
    """The base's [1/2, 1/4, 1/4] with e^-log 2 on the answer is uniform: the loss is the mean of -log p."""
    seen = answers([[0.2, 0.7, 0.1]], [0], base=[[0.5, 0.25, 0.25]])
    expected = -(math.log(0.2) + math.log(0.7) + math.log(0.1)) / 3
    assert value(forget_loss("undial", beta=math.log(2)), seen) == pytest.approx(expected, rel=1e-4)


def test_js_by_hand_and_symmetric():
    one, other = [[0.5, 0.25, 0.25]], [[0.2, 0.7, 0.1]]
    pairs = list(zip(one[0], other[0], strict=True))
    expected = sum(p * math.log(2 * p / (p + q)) + q * math.log(2 * q / (p + q)) for p, q in pairs) / 2
    for p, q in ((one, other), (other, one)):
        assert value(retain_loss("js"), answers(p, [0], base=q)) == pytest.approx(expected, rel=1e-4)


def test_short_and_long_answers_weigh_alike_in_simnpo():
    """One token of probability 0.5 and four of them have the same margin."""
    short = value(forget_loss("simnpo"), answers([HALVES[0]], [0]))
    long = value(forget_loss("simnpo"), answers([HALVES[0]] * 4, [0] * 4))
    assert short == pytest.approx(long, rel=1e-6)


def test_wga_without_weights_is_gradient_ascent():
    seen = answers(HALVES, [0, 1])
    assert value(forget_loss("wga", beta=0.0), seen) == pytest.approx(value(forget_loss("ga"), seen), rel=1e-6)
    weights = dict(beta1=0.0, beta2=0.0)
    assert value(forget_loss("satimp", **weights), seen) == pytest.approx(value(forget_loss("ga"), seen), rel=1e-6)


@pytest.mark.parametrize("name", ["jensun", "js"])
def test_jensen_shannon_is_bounded_and_its_gradient_fades(name):
    loss = (FORGET | RETAIN)[name]()
    far = answers([[1e-9, 1.0, 1e-9]], [0], base=[[1.0, 1e-9, 1e-9]])
    found = loss({view: far for view in loss.needs})
    assert found.item() == pytest.approx(math.log(2), rel=1e-4)
    (slope,) = torch.autograd.grad(found, far.hidden)
    assert slope.isfinite().all() and slope.abs().max() < 1e-6
    near = answers([[1.0, 1e-9, 1e-9]], [0], base=[[1.0, 1e-9, 1e-9]])
    assert abs(value(loss, near)) < 1e-6


def test_a_probability_of_one_or_nothing_leaves_gradients_finite():
    """Logits of +-200, where a probability is 1 or 0 in fp32."""
    for name in ("simnpo", "wga", "satimp", "undial", "ceu", "jensun"):
        loss = forget_loss(name)
        for sure in (0, 1):
            states = torch.full((2, WORDS), -200.0)
            states[:, sure] = 200.0
            states.requires_grad_()
            seen = Answers(
                Plain(), states, torch.tensor([0, 0]), torch.tensor([0, 0]), 1, {"base": states.detach().clone()}
            )
            found = loss({view: seen for view in loss.needs})
            (slope,) = torch.autograd.grad(found, states)
            assert found.isfinite() and slope.isfinite().all(), (name, sure)


def test_a_loss_has_its_own_numbers_and_no_others():
    assert own_settings("simnpo", "gd", None) == {"forget": {"beta": 4.5, "gamma": 0.0}, "retain": {}}
    assert own_settings("satimp", "none", " beta2 = 2 ")["forget"] == {"beta1": 5.0, "beta2": 2.0}
    assert own_settings("asu", "kl", None) == {"forget": {}, "retain": {}}
    for objective, text, said in (
        ("simnpo", "delta=1", "gives delta, but simnpo and gd has beta, gamma"),
        ("asu", "beta=1", "asu and gd has no settings of its own"),
        ("simnpo", "beta", "has 'beta'; write NAME=NUMBER"),
        ("simnpo", "beta=fast", "'beta=fast'"),
        ("simnpo", "beta=nan", "'beta=nan'"),
        ("simnpo", "beta=1,beta=2", "gives beta twice"),
        ("simnpo", "beta=0", "beta of simnpo is 0"),
        ("wga", "beta=-1", "beta of wga is -1"),
        ("satimp", "beta2=-1", "beta2 of satimp is -1"),
        ("ceu", "skip=2", "skip of ceu is 2"),
    ):
        with pytest.raises(SettingError, match=said):
            own_settings(objective, "gd", text)


def test_what_is_written_of_the_numbers_is_read_as_the_same():
    found = {"beta": 0.1 + 0.2, "gamma": 1e-30}
    assert parse_settings(settings_text(found)) == found


@pytest.mark.parametrize("name", FORGET)
def test_every_default_in_the_settings_is_the_one_that_the_loss_is_made_with(name):
    loss, given = FORGET[name](), FORGET[name](**FORGET[name].settings)
    assert {key: value for key, value in vars(loss).items() if key != "idk"} == {
        key: value for key, value in vars(given).items() if key != "idk"
    } or name.startswith("asu")


def test_the_settings_reach_the_loss():
    losses = build_losses(ForgetConfig(objective="simnpo", loss_settings="gamma=0.5,beta=2"))
    assert (losses["forget"].beta, losses["forget"].gamma) == (2.0, 0.5)


def test_jensun_refuses_in_its_papers_words_unless_others_are_given(tmp_path):
    losses = build_losses(ForgetConfig(objective="jensun", retain_loss="js"))
    assert refusals_for(losses) == ["No idea"]
    (tmp_path / "own.txt").write_text("I would rather not say.\n")
    assert refusals_for(losses, tmp_path / "own.txt") == ["I would rather not say."]
    assert len(refusals_for(build_losses(ForgetConfig(objective="idk")))) > 10


def test_pdu_by_hand():
    """Logits 0, log 2 and log 4: log 4 less their mean, squared."""
    seen = answers([[1.0, 2.0, 4.0]], [0])
    assert value(forget_loss("pdu"), seen) == pytest.approx((math.log(4) - math.log(8) / 3) ** 2, rel=1e-4)
    assert value(forget_loss("pdu"), answers([[0.2, 0.2, 0.2]], [0])) == pytest.approx(0, abs=1e-9)


def test_the_multiplier_of_pdu_grows_with_what_the_constraint_is_broken_by():
    loss = forget_loss("pdu", epsilon=0.5, step=2.0)
    assert loss.next_coefficient(10.0, 0.75) == 10.5 and loss.next_coefficient(10.0, 0.25) == 9.5
    assert loss.next_coefficient(0.25, 0.0) == 0.0


def test_rmu_draws_states_to_a_vector_of_its_length():
    """A state that is the vector itself loses nothing; one away from it by d in each number loses d squared."""
    direction = torch.rand(WORDS, generator=torch.Generator().manual_seed(0))
    target = 6.5 * direction / direction.norm()
    seen = answers([HALVES[0]] * 2, [0, 0], row=[0, 1])
    seen.inner = torch.stack([target, target + 2])
    assert value(forget_loss("rmu"), seen) == pytest.approx(2.0, rel=1e-4)
    seen.references["inner"] = seen.inner - 3
    assert value(retain_loss("rmu"), seen) == pytest.approx(9.0, rel=1e-4)


def test_the_layer_of_rmu_is_one_that_the_adapter_moves():
    config = ForgetConfig(objective="rmu", retain_loss="rmu")
    assert [loss.layer for loss in build_losses(config, number_of_layers=30).values()] == [17, 17]
    lower = ForgetConfig(objective="rmu", retain_loss="gd", adapter_layers="4-8", loss_settings="layer=6")
    assert build_losses(lower, number_of_layers=30)["forget"].layer == 6
    assert build_losses(ForgetConfig(objective="rmu", retain_loss="gd"), number_of_layers=2)["forget"].layer == 1
    for layer in (3, 30):
        config = ForgetConfig(objective="rmu", adapter_layers="4-8", loss_settings=f"layer={layer}")
        with pytest.raises(SettingError, match=f"layer of rmu is {layer}; it must be from 4 to 29"):
            build_losses(config, number_of_layers=30)
