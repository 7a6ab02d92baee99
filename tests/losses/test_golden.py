"""Every figure of the paper authors' own code, reproduced through this project's path."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from asu_lora import attention_smoothing
from asu_lora.bases.source import resolve_base
from asu_lora.batches.collator import Collator
from asu_lora.batches.padding import every_position
from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import examples_from_rows
from asu_lora.data.training_rows import TrainingRows
from asu_lora.losses import TrainingSet, forget_loss, needs_of, retain_loss
from asu_lora.losses.forget.asu import ASU
from asu_lora.models.loading import LoadedBase
from asu_lora.teacher.targets import compute_references
from asu_lora.teacher.teacher import Teacher
from asu_lora.training.step_losses import losses
from asu_lora.training.student import Student

TAUS = (1.0, 2.0, 2.3, 4.0)
LAYERS = (None, [1, 2], [0])


@pytest.fixture(scope="module")
def oracle(shared):
    return shared / "oracle"


@pytest.fixture(scope="module")
def golden(oracle):
    return json.loads((oracle / "golden.json").read_text())


@pytest.fixture(scope="module")
def tensors(oracle):
    with safe_open(oracle / "batches.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def load_base(oracle, attention="sdpa"):
    return AutoModelForCausalLM.from_pretrained(oracle / "base", dtype=torch.float32, attn_implementation=attention)


@pytest.fixture(scope="module")
def tokenizer():
    """The oracle has token ids and no text: here each id is a word."""
    inner = Tokenizer(models.WordLevel({f"w{index}": index for index in range(131)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="w0")
    found.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return found


def written(tensors, name):
    """The rows of an oracle batch as a user's file holds them: questions and answers."""
    rows = []
    for ids, mask, labels in zip(
        *(tensors[f"{name}.{k}"] for k in ("input_ids", "attention_mask", "labels")), strict=True
    ):
        words, labels = [f"w{i}" for i in ids[mask.bool()].tolist()], labels[mask.bool()]
        start = int((labels != -100).nonzero()[0])
        assert (labels[start:] != -100).all()
        rows.append({"question": " ".join(words[:start]), "answer": " ".join(words[start:])})
    return rows


@pytest.fixture(scope="module")
def run(oracle, tensors, tokenizer):
    """Base and rows, as the forget command sets them up: encoded from text."""
    model = load_base(oracle).requires_grad_(False).eval()
    base = LoadedBase(resolve_base(str(oracle / "base")), model, tokenizer, "fp32", torch.float32)
    encoder, rows = Encoder(tokenizer), {}
    for name in ("forget", "retain"):
        answers = encoder.encode_all(examples_from_rows(written(tensors, name), name))
        refusals = encoder.encode_all(examples_from_rows(written(tensors, f"{name}_idk"), name))
        views = {"answer": answers, "idk": refusals, "positions": every_position(answers, 0)}
        rows[name] = TrainingRows(views)
    ids = [list(item.prompt_ids + item.answer_ids) for item in rows["retain"].answers]
    assert ids == [
        row[mask.bool()].tolist()
        for row, mask in zip(tensors["retain.input_ids"], tensors["retain.attention_mask"], strict=True)
    ]
    return base, rows


def computed(oracle, run, forget, retain, *, tau=2.3, layers=None, gradient=(1.0, 1.0)):
    """Losses of base + student adapter, and the LoRA gradient norm of their weighted sum."""
    base, rows = run
    loss_of = {"forget": forget} | ({"retain": retain} if retain else {})
    for name, loss in loss_of.items():
        rows[name].references.clear()
        compute_references(base, TrainingSet(loss, rows[name]), Teacher(tau, layers))
    peft = PeftModel.from_pretrained(load_base(oracle), oracle / "student", is_trainable=True)
    student = Student(peft).train()
    (batch,) = Collator(rows, needs_of(loss_of), base.pad_id)([(i, [i]) for i in range(3)])["micro_batches"]
    parts = losses(student(batch["passes"]), batch, loss_of, base.head)
    sum(w * parts[name] for w, name in zip(gradient, loss_of, strict=False)).backward()
    norm = torch.stack([p.grad.norm() for p in peft.parameters() if p.requires_grad]).norm()
    return {name: value.item() for name, value in parts.items()}, norm.item()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("layers", "suffix"), [(None, ""), ([1, 2], ".layers=1,2")])
@pytest.mark.parametrize("tau", [1.0, 2.3])
def test_teacher_logits(oracle, tensors, attention, layers, suffix, tau):
    model = load_base(oracle, attention).eval()
    with torch.no_grad(), attention_smoothing(model, tau, layers):
        logits = model(input_ids=tensors["forget.input_ids"], attention_mask=tensors["forget.attention_mask"]).logits
    seen = tensors["forget.attention_mask"].bool()
    expected = tensors[f"teacher_logits.tau={tau}{suffix}"]
    assert (logits - expected)[seen].abs().max() < 1e-4


@pytest.mark.parametrize("name", ["ga", "npo", "dpo", "idk", "me"])
def test_forget_losses(oracle, run, golden, name):
    parts, _ = computed(oracle, run, forget_loss(name), None)
    assert parts["forget"] == pytest.approx(golden["forget"][name], rel=1e-4)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("tau", TAUS)
def test_asu(oracle, run, golden, tau, layers):
    parts, _ = computed(oracle, run, ASU(), None, tau=tau, layers=layers)
    assert parts["forget"] == pytest.approx(golden["forget"][f"asu tau={tau} layers={layers}"], rel=1e-4)


def test_asu_without_first_token(oracle, run, golden):
    parts, _ = computed(oracle, run, ASU(skip_first_token=True), None)
    assert parts["forget"] == pytest.approx(golden["forget"]["asu tau=2.3 layers=None skip_first_token"], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "figure"),
    [("gd", "gd"), ("ap", "ap beta=0.1"), ("kl-answers", "kl answer tokens"), ("kl", "kl all positions")],
)
def test_retain_losses(oracle, run, golden, name, figure):
    parts, _ = computed(oracle, run, forget_loss("ga"), retain_loss(name))
    assert parts["retain"] == pytest.approx(golden["retain"][figure], rel=1e-4)


@pytest.mark.parametrize(
    "rows",
    [
        ("asu", "gd", 0.1, "ASU+GD"),
        ("npo", "gd", 1.0, "NPO+GD"),
        ("me", "gd", 0.1, "ME+GD"),
        ("ga", "gd", 1.0, "GA+GD"),
        ("idk", "ap", 1.0, "IDK+AP"),
        ("asu", "kl", 0.1, "ASU+KL"),
        ("dpo", "kl", 1.0, "DPO+KL"),
    ],
)
def test_gradient_norms(oracle, run, golden, rows):
    forget, retain, coefficient, figure = rows
    _, norm = computed(oracle, run, forget_loss(forget), retain_loss(retain), gradient=(coefficient, 1.0))
    key = f"{figure} forget_coeff={coefficient} retain_coeff=1.0"
    assert norm == pytest.approx(golden["lora_grad_norm"][key], rel=1e-3)
