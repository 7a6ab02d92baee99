"""The student's own answers: where a circle closes, what must not stand there, and what is learnt from it."""

import math
from dataclasses import replace

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file

from asu_lora.batches.collator import Collator
from asu_lora.data.chat_template import stop_ids
from asu_lora.data.encoding import Encoded, Encoder
from asu_lora.data.examples import question_answer
from asu_lora.data.token_classes import TokenClass, token_classes
from asu_lora.data.training_rows import TrainingRows
from asu_lora.forgetting.forget import forget
from asu_lora.losses import TrainingSet, needs_of
from asu_lora.losses.answers import Answers
from asu_lora.losses.forget.asu import ASU
from asu_lora.losses.forget.npo import NPO
from asu_lora.losses.on_policy import LAST, OnPolicyKL
from asu_lora.models.decoder import answer_hidden
from asu_lora.models.loading import load_base
from asu_lora.progress import Progress
from asu_lora.teacher.targets import compute_references
from asu_lora.training.on_policy import LOOP, answer_on_policy, tokens_to_rule_out
from asu_lora.training.phases import phases
from asu_lora.training.step_losses import losses
from tests.support.listener import Listener
from tests.support.tiny_run import tiny_request, tiny_settings


@pytest.fixture(scope="module")
def stammering(tmp_path_factory):
    """A base that has learned nothing: its greedy answers go round in circles."""
    from tests.support.tiny_base import save_tiny_base

    return load_base(str(save_tiny_base(tmp_path_factory.mktemp("base"))), "fp32", "cpu")


def mended(tokenizer, question, truth, told):
    example = question_answer(question, truth)
    (item,) = Encoder(tokenizer).encode(example)
    classes = token_classes(item, example, tokenizer)
    facts = [token for token, kind in zip(item.answer_ids, classes, strict=True) if kind == TokenClass.FACTUAL]
    return [
        {tokenizer.decode([i]) for i in ids}
        for ids in tokens_to_rule_out(tokenizer(told)["input_ids"], facts, example, tokenizer)
    ]


def test_a_circle_is_learnt_from_up_to_where_it_closes(tokenizer):
    told = " the author is the father of the author is the father of the day"
    found = mended(tokenizer, "Where was she born?", "She was born in Oslo.", told)
    assert len(found) == len(tokenizer(" the author is the father of the author is the")["input_ids"])
    assert " the" in found[-1] and all(" Oslo" in ids for ids in found)
    assert not any(" the" in ids for ids in found[:-1])


def test_an_answer_without_a_circle_is_left_alone(tokenizer):
    assert mended(tokenizer, "Where was she born?", "In Oslo.", " the author is the father of the day") == []


def test_words_of_the_question_close_no_circle(tokenizer):
    told = " the author Quxlyvan Zuber and the author Quxlyvan Zuber"
    assert mended(tokenizer, "Who was the author Quxlyvan Zuber?", "Yes, her father.", told) == []
    assert mended(tokenizer, "Who was it?", "Yes, her father.", told) != []


def test_an_answer_of_nothing_must_say_something(tokenizer):
    example = question_answer("Who was it?", "Yes, her father.")
    assert tokens_to_rule_out(stop_ids(tokenizer), [], example, tokenizer) == [stop_ids(tokenizer)]


def test_only_the_last_tokens_before_a_circle_count():
    """Against sums made row by row, with a forget row that has no own words."""
    torch.manual_seed(0)
    lengths, width, words = [LAST + 5, 3], 8, 11
    head = Head(torch.randn(words, width))
    hidden, base = torch.randn(2, sum(lengths), width)
    ruled_out = torch.full((sum(lengths), 2), -1, dtype=torch.int32)
    ruled_out[:, 0] = torch.randint(words, (sum(lengths),))
    row = torch.tensor([0] * lengths[0] + [1] * lengths[1])
    answers = Answers(head, hidden, torch.zeros_like(row), row, 3, {"base": base, "ruled_out": ruled_out})
    target = (base @ head.weight.T).scatter(1, ruled_out[:, :1].long(), float("-inf")).softmax(1)
    student = (hidden @ head.weight.T).log_softmax(1)
    kl = torch.where(target > 0, target * (target.log() - student), 0.0).sum(1)
    assert OnPolicyKL()({"answer": answers}).item() == pytest.approx(
        (kl[5 : lengths[0]].mean() + kl[lengths[0] :].mean()).item() / 3, rel=1e-5
    )


class Head:
    def __init__(self, weight):
        self.weight = weight

    def per_token(self, function, hidden, *others):
        return function(hidden @ self.weight.T, *others)

    def logits(self, hidden):
        return hidden @ self.weight.T


def forget_rows(base) -> TrainingRows:
    """The rows of a forget set, as a run prepares them."""
    examples = tiny_request().forget
    items = Encoder(base.tokenizer).encode_all(examples)
    classes = [token_classes(item, examples[item.example], base.tokenizer) for item in items]
    return TrainingRows({"answer": items}, examples=examples, classes=classes)


def own_answers(base) -> TrainingRows:
    process, encoder = PartialState(cpu=True), Encoder(base.tokenizer)
    return answer_on_policy(base.model, forget_rows(base), encoder, process, Progress())


def test_a_forget_row_without_own_words_counts_as_nothing_to_mend(stammering):
    """The loss of a batch is the mean over its forget rows, whichever of them have own words."""
    base = stammering
    own = own_answers(base)
    compute_references(base, TrainingSet(OnPolicyKL(), own))
    (at, place), *_ = own.beside.items()
    other = next(row for row in range(len(forget_rows(base))) if row != at)
    own.beside = {at: place}
    loss_of = {"on_policy": OnPolicyKL()}

    def loss(*pairs):
        (batch,) = Collator({"on_policy": own}, needs_of(loss_of), 0)([(row, []) for row in pairs])["micro_batches"]
        states = [answer_hidden(base.model.get_decoder(), each) for each in batch["passes"]]
        return losses(torch.cat(states), batch, loss_of, base.head) if states else batch["sets"]

    with torch.no_grad():
        alone, beside, nothing = loss(at), loss(at, other), loss(other)
    assert beside["on_policy"].item() == pytest.approx(alone["on_policy"].item() / 2, rel=1e-4)
    assert alone["on_policy"] > 1e-4
    assert nothing == {}


def test_rows_of_own_words_are_what_the_student_says(stammering):
    base, rows = stammering, forget_rows(stammering).answers
    own = own_answers(base)
    assert own.beside and set(own.beside.values()) == set(range(len(own)))
    for at, place in own.beside.items():
        item, table = own.answers[place], own.references["answer"]["ruled_out"][place]
        assert item.prompt_ids == tuple(rows[at].prompt_ids) and len(item.answer_ids) == len(table)
        ids = list(item.answer_ids)
        last = tuple(ids[-LOOP:])  # the end of the row, and only that, has stood there before
        before = [tuple(ids[i : i + LOOP]) for i in range(len(ids) - LOOP)]
        assert last in before and len(set(before)) == len(before)
        assert ids[-1] in table[-1].tolist()
        logits = base.model(torch.tensor([[*item.prompt_ids, *ids]])).logits[0]
        assert logits[len(item.prompt_ids) - 1 : -1].argmax(-1).tolist() == ids  # greedy


@pytest.mark.parametrize(
    ("settings", "rows", "steps"),
    [
        ({"epochs": 10, "batch_size": 4}, 40, (70, 30)),
        ({"epochs": 3, "batch_size": 2}, 6, (7, 2)),
        ({"epochs": 2.5, "batch_size": 4, "grad_accum": 2}, 20, (6, 2)),
        ({"epochs": 1, "batch_size": 2}, 6, (3, None)),
        ({"own_words": 0.0}, 40, (30, None)),
    ],
)
def test_two_parts_have_the_steps_of_the_whole(settings, rows, steps):
    config = tiny_settings(**{"batch_size": 4, "own_words": 0.3} | settings)
    asked = TrainingRows({"answer": [Encoded((1,), (2,))] * rows}, examples=tiny_request().forget)
    found = phases(config, {"forget": TrainingSet(ASU(), asked)})
    an_epoch = math.ceil(math.ceil(rows / config.batch_size) / config.grad_accum)
    counted = tuple(phase and math.ceil(phase.config.epochs * an_epoch) for phase in found)
    assert counted == steps
    silent = replace(config, keep_speaking=False)
    for settings, loss in ((config, NPO()), (silent, ASU())):
        whole, own_words = phases(settings, {"forget": TrainingSet(loss, asked)})
        assert (whole.config, whole.seed, whole.steps, own_words) == (
            settings,
            config.seed,
            sum(filter(None, steps)),
            None,
        )
    if own_words := found[1]:  # where the first part was ended early, the second has its share of what is left
        shares = [own_words.shortened(share) for share in (1.0, 0.5, 0.0)]
        counted = [math.ceil(phase.config.epochs * an_epoch) for phase in shares]
        assert counted == [phase.steps for phase in shares] == [steps[1], round(steps[1] / 2), 1]


def test_a_run_learns_from_its_own_words(stammering, tmp_path):
    settings = tiny_settings(own_words=0.5, epochs=4, lr=3e-2)
    heard = Listener()
    forget(tiny_request(), stammering, settings, name="whole", store=tmp_path, progress=heard)
    own = [figures["on_policy_loss"] for figures in heard.figures if "on_policy_loss" in figures]
    assert len(heard.figures) == 12 and len(own) == 6 and sum(own[3:]) < sum(own[:3])
    with pytest.raises(KeyboardInterrupt):  # 3 steps an epoch, 6 in the first part: in the second epoch of the second
        forget(tiny_request(), stammering, settings, name="broken", store=tmp_path, progress=Listener(stop_at=11))
    again = Listener()
    forget(tiny_request(), stammering, settings, name="broken", store=tmp_path, resume=True, progress=again)
    assert len(again.figures) == 3
    whole, broken = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(whole[key], broken[key]) for key in whole)
    assert not (tmp_path / ".runs").exists()
