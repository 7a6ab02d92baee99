"""Every loss against a second implementation: full logits, labels of -100, padding, plain autograd."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, kl_div, logsigmoid

from asu_lora.errors import SettingError
from asu_lora.losses import FORGET, NO_RETAIN, RETAIN, forget_loss, retain_loss
from asu_lora.losses.answers import Answers
from asu_lora.losses.forget.asu import ASU
from asu_lora.losses.forget.asu_idk import ASUWithIDK
from asu_lora.losses.loss import Loss
from asu_lora.models import output_head as head_module
from tests.support.field_losses import FIELD

VOCABULARY, HIDDEN = 31, 16
FORBIDDEN = [2, 5, 30]


class Head(head_module.FrozenHead):
    """A head without a model around it."""

    def __init__(self, dtype):
        self.name, self.scale, self.softcap, self.device = "Head", 1.0, None, torch.device("cpu")
        self.module = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False, dtype=dtype).requires_grad_(False)
        self.module.weight.data *= 4  # distributions that are far from uniform


class Batch:
    """One view of one set: padded hidden states of student and references, and labels, (B, L, ...)."""

    def __init__(self, lengths, head, generator, dtype):
        rows, width = len(lengths), max(lengths) + 4
        self.hidden, self.teacher, self.base = (
            torch.randn(rows, width, HIDDEN, generator=generator).to(dtype) for _ in range(3)
        )
        self.hidden.requires_grad_()
        self.labels = torch.full((rows, width), -100)
        for row, length in enumerate(lengths):  # a prompt of 2, the answer, padding
            self.labels[row, 2 : 2 + length] = torch.randint(VOCABULARY, (length,), generator=generator)
        # up to 3 ids a token, -1 for none
        self.ruled_out = torch.randint(-1, VOCABULARY, (rows, width, 3), generator=generator)
        self.head = head

    def answers(self) -> Answers:
        """As the project sees it: the answer tokens one after another."""
        at = self.labels != -100
        row = at.nonzero()[:, 0]
        labels = self.labels[at]
        base_logprob = self.head.logits(self.base[at]).log_softmax(1).gather(1, labels[:, None])[:, 0]
        return Answers(
            self.head,
            self.hidden[at],
            labels,
            row,
            len(self.labels),
            {
                "teacher": self.teacher[at],
                "base": self.base[at],
                "base_logprob": base_logprob,
                "ruled_out": self.ruled_out[at],
                "inner": self.base[at],
            },
            inner=self.hidden[at],
        )

    # ---- the second implementation, the way a Trainer that knows nothing of chunks would write it

    def logits(self, states):
        return self.head.module(states).float()

    def nll(self, states):
        """(B,) summed NLL of each row's answer."""
        logits = self.logits(states)
        return cross_entropy(logits.transpose(1, 2), self.labels, ignore_index=-100, reduction="none").sum(1)

    def mean_nll(self, states):
        return cross_entropy(self.logits(states).flatten(0, 1), self.labels.flatten(), ignore_index=-100)

    def kl(self, reference, forbidden=(), skip_first=False, ruled_out=False, temperature=1.0):
        """Mean over rows of the mean over answer tokens of KL(reference || student), at a temperature times its
        square."""
        target = (self.logits(reference).detach() / temperature).softmax(-1)
        losses = []
        for row, labels in enumerate(self.labels):
            places = (labels != -100).nonzero()[:, 0].tolist()
            values = []
            for place in places[1 if skip_first else 0 :]:
                p = target[row, place].clone()
                if place != places[-1]:
                    for token in forbidden:
                        p[token] = 0
                if ruled_out:
                    for token in self.ruled_out[row, place].tolist():
                        p[token] = 0 if token >= 0 else p[token]
                p = p / p.sum()
                log_q = (self.logits(self.hidden)[row, place] / temperature).log_softmax(-1)
                values.append(temperature**2 * kl_div(log_q, p, reduction="sum"))
            losses.append(sum(values) / max(len(values), 1))
        return torch.stack([torch.as_tensor(loss) for loss in losses]).mean()


def npo(answer: Batch, beta):
    ratio = answer.nll(answer.base).detach() - answer.nll(answer.hidden)
    return -2 / beta * logsigmoid(-beta * ratio).mean()


def dpo(answer: Batch, idk: Batch, beta):
    lost = answer.nll(answer.base).detach() - answer.nll(answer.hidden)
    won = idk.nll(idk.base).detach() - idk.nll(idk.hidden)
    return -2 / beta * logsigmoid(beta * (won - lost)).mean()


def ap(answer: Batch, idk: Batch, beta):
    return -logsigmoid(beta * (idk.nll(idk.hidden) - answer.nll(answer.hidden))).mean() / beta


def kl_of_positions(row: Batch):
    """KL(base || student), the mean over all positions of all rows: each row's are here as the answer's are."""
    at = row.labels != -100
    log_p, log_q = (row.logits(states)[at].log_softmax(-1) for states in (row.base, row.hidden))
    return kl_div(log_q, log_p.detach(), reduction="none", log_target=True).sum(-1).mean()


def me(answer: Batch):
    logits = answer.logits(answer.hidden)[answer.labels != -100]
    uniform = torch.full_like(logits, 1 / VOCABULARY)
    return kl_div(logits.log_softmax(-1), uniform, reduction="none").sum(-1).mean()


forbidden = torch.tensor(FORBIDDEN)
CASES = {
    "asu": (lambda: forget_loss("asu"), lambda a, i: a.kl(a.teacher)),
    "asu, forbidden": (lambda: forget_loss("asu", forbidden=forbidden), lambda a, i: a.kl(a.teacher, FORBIDDEN)),
    "asu, ruled out": (
        lambda: forget_loss("asu", forbidden=forbidden, rule_out=True),
        lambda a, i: a.kl(a.teacher, FORBIDDEN, ruled_out=True),
    ),
    "asu, without first token": (lambda: ASU(skip_first_token=True), lambda a, i: a.kl(a.teacher, skip_first=True)),
    "asu+idk": (lambda: forget_loss("asu+idk"), lambda a, i: a.kl(a.teacher, skip_first=True) + i.mean_nll(i.hidden)),
    "asu+idk, forbidden": (
        lambda: ASUWithIDK(forbidden),
        lambda a, i: a.kl(a.teacher, FORBIDDEN, True) + i.mean_nll(i.hidden),
    ),
    "asu+idk, ruled out": (
        lambda: ASUWithIDK(forbidden, rule_out=True),
        lambda a, i: a.kl(a.teacher, FORBIDDEN, True, True) + i.mean_nll(i.hidden),
    ),
    "npo": (lambda: forget_loss("npo", beta=0.3), lambda a, i: npo(a, 0.3)),
    "dpo": (lambda: forget_loss("dpo", beta=0.3), lambda a, i: dpo(a, i, 0.3)),
    "idk": (lambda: forget_loss("idk"), lambda a, i: i.mean_nll(i.hidden)),
    "me": (lambda: forget_loss("me"), lambda a, i: me(a)),
    "ga": (lambda: forget_loss("ga"), lambda a, i: -a.mean_nll(a.hidden)),
    "gd": (lambda: retain_loss("gd"), lambda a, i: a.mean_nll(a.hidden)),
    "kl-answers": (lambda: retain_loss("kl-answers"), lambda a, i: a.kl(a.base)),
    "kl-answers at 4": (lambda: retain_loss("kl-answers", temperature=4.0), lambda a, i: a.kl(a.base, temperature=4.0)),
    "kl": (lambda: retain_loss("kl"), lambda a, i: kl_of_positions(a)),
    "ap": (lambda: retain_loss("ap", beta=0.3), lambda a, i: ap(a, i, 0.3)),
    **FIELD,
}


def test_every_loss_has_a_second_implementation():
    assert {make().name for make, _ in CASES.values()} == {*FORGET, *RETAIN}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 2**31), chunk=st.integers(1, 9))
def test_value_and_gradient(case, dtype, lengths, seed, chunk):
    make, expected = CASES[case]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    head = Head(dtype)
    head.chunk = lambda: chunk
    objective = make()
    views = {"answer": Batch(lengths, head, generator, dtype), "idk": Batch(lengths[::-1], head, generator, dtype)}
    views |= {"positions": views["answer"], "alternate": views["idk"]}
    value = objective({name: views[name].answers() for name in objective.needs})
    ours = torch.autograd.grad(value, [views[name].hidden for name in objective.needs])
    second = expected(views["answer"], views["idk"])
    if second.requires_grad:  # else all answers are one token, and the first carries no loss
        theirs = torch.autograd.grad(
            second, [views[name].hidden for name in objective.needs], allow_unused=True, materialize_grads=True
        )
    else:
        theirs = [torch.zeros_like(gradient) for gradient in ours]
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    assert value.dtype == torch.float32 and value.shape == ()
    assert value.item() == pytest.approx(second.item(), rel=tolerance, abs=tolerance)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).float().norm() <= tolerance * (other.float().norm() + 1e-3)


@pytest.mark.parametrize("name", ["asu", "kl-answers", "kl"])
def test_a_student_that_is_its_reference_loses_nothing(name):
    torch.manual_seed(0)
    head = Head(torch.float32)
    answers = Batch([3, 5], head, None, torch.float32).answers()
    answers.references["teacher"] = answers.references["base"] = answers.hidden.detach()
    objective = (FORGET | RETAIN)[name]()
    assert abs(objective({view: answers for view in objective.needs}).item()) < 1e-6


def test_what_each_loss_says_it_needs():
    assert [name for name, loss in FORGET.items() if loss.uses_teacher()] == ["asu", "asu+idk"]
    assert not any(loss.uses_teacher() for loss in RETAIN.values())


def test_names_that_are_no_loss():
    with pytest.raises(SettingError, match="no objective 'asuu': choose one of asu, asu\\+idk, npo"):
        forget_loss("asuu")
    with pytest.raises(SettingError, match="no retain loss 'asu': choose one of kl-answers, kl, gd, ap"):
        retain_loss("asu")
    assert retain_loss(NO_RETAIN) is None


def test_a_loss_that_defines_none_says_so():
    class Nothing(Loss):
        name = "nothing"

    with pytest.raises(NotImplementedError, match="Nothing"):
        Nothing()({})
