"""The trainer's step: its gradients under any way to compute it, and the rows it is dealt."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from asu_lora.batches.collator import Collator
from asu_lora.batches.forget_retain_pairs import ForgetRetainPairs, Pair
from asu_lora.data.chat_template import special_ids
from asu_lora.data.encoding import Encoded
from asu_lora.data.training_rows import TrainingRows
from asu_lora.forgetting.forget import forget
from asu_lora.forgetting.prepare import build_losses, training_sets
from asu_lora.losses import TrainingSet, needs_of, retain_loss
from asu_lora.teacher.fluency import fluency_masks
from asu_lora.teacher.targets import compute_references
from asu_lora.teacher.teacher import Teacher
from asu_lora.training.new_adapter import adapted, add_adapter
from asu_lora.training.step_losses import losses
from asu_lora.training.student import Student
from tests.support.adapter_weights import weights
from tests.support.tiny_run import encoded_facts, tiny_request, tiny_settings

# ---- the step


@pytest.fixture
def step(base, taught_base):
    """A function: losses and LoRA gradients of some pairs, on a student that has moved away from the base."""
    settings = tiny_settings()
    from asu_lora.data.encoding import Encoder

    loss_of = build_losses(settings, special_ids(base.tokenizer), base.device)
    sets = training_sets(tiny_request(), Encoder(base.tokenizer), loss_of, [], settings)
    teacher = Teacher(3.0, fluency=fluency_masks(sets["forget"].rows, base.tokenizer))
    for each in sets.values():
        compute_references(base, each, teacher)
    assert base.head is not None  # made now: its trial is no part of a step

    def run(pairs, most_tokens=None, **changes):
        changed = tiny_settings(**changes)
        torch.manual_seed(0)
        with adapted(base.model, changed) as peft:
            move(peft)
            student = Student(peft, changed.gradient_checkpointing).train()
            rows = {name: each.rows for name, each in sets.items()}
            batch, found = Collator(rows, needs_of(loss_of), base.pad_id, most_tokens=most_tokens)(pairs), {}
            for part in batch["micro_batches"]:
                shares = losses(student(part["passes"]), part, loss_of, base.head)
                sum(shares.values()).backward()
                found = {
                    name: found.get(name, 0) + shares[name].item() if name in shares else found[name]
                    for name in {**found, **shares}
                }
            run.micro_batches = len(batch["micro_batches"])
            return (found, torch.cat([p.grad.flatten() for p in peft.parameters() if p.requires_grad]))

    return run


def move(peft):
    torch.manual_seed(1)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:  # B starts at zero, and with it A's gradient
            torch.nn.init.normal_(parameter, std=0.02)


PAIRS = [(0, [3]), (4, [1]), (2, [2]), (5, [0])]


def test_gradient_checkpointing_changes_no_gradient(step, base):
    calls = []
    hook = base.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    parts, gradient = step(PAIRS)
    once = len(calls)
    checkpointed_parts, checkpointed = step(PAIRS, gradient_checkpointing=True)
    hook.remove()
    assert len(calls) == 3 * once, "the backward pass recomputed nothing"
    assert checkpointed_parts == parts and torch.allclose(gradient, checkpointed, atol=1e-7)


def test_passes_are_only_a_way_to_compute(step, monkeypatch):
    """One row a pass, against like lengths together, against everything in one padded pass."""
    parts, gradient = step(PAIRS)
    for smallest, most in ((0, 1), (10**9, None)):
        from asu_lora.batches import forward_passes as batching

        monkeypatch.setattr(
            "asu_lora.batches.collator.forward_passes",
            lambda items, pad, least=smallest, most=most, **_: [
                (group, batching.pad_group([items[i] for i in group], pad))
                for group in batching.length_groups([len(item) for item in items], most, least)
            ],
        )
        other_parts, other = step(PAIRS)
        assert other_parts == pytest.approx(parts, rel=1e-5)
        assert (gradient - other).norm() < 1e-4 * gradient.norm()


@pytest.mark.parametrize("most_tokens", [1, 200, 400])
def test_micro_batches_add_up_to_the_step(step, most_tokens):
    parts, gradient = step(PAIRS)
    assert step.micro_batches == 1
    shared, other = step(PAIRS, most_tokens)
    assert step.micro_batches == 8 if most_tokens == 1 else 1 < step.micro_batches < 8
    assert shared == pytest.approx(parts, rel=1e-5)
    assert (gradient - other).norm() < 1e-5 * gradient.norm()


def test_a_batch_is_the_mean_of_its_rows(step):
    """Of rows one at a time: what accumulation and several processes rest on."""
    parts, gradient = step(PAIRS)
    single = [step([pair]) for pair in PAIRS]
    for half in parts:
        assert parts[half] == pytest.approx(sum(p[half] for p, _ in single) / 4, rel=1e-5)
    assert (gradient - sum(g for _, g in single) / 4).norm() < 1e-4 * gradient.norm()


def test_accumulation_equals_the_larger_batch(base, tmp_path, snapshot):
    """Through Trainer: 4 rows at once against 2 + 2, also where the last step of an epoch is short."""
    for forget_rows in (4, 6):
        request = tiny_request(forget_rows)
        for name, batch, accumulate in (("large", 4, 1), ("small", 2, 2), ("single", 1, 4)):
            forget(
                request,
                base,
                tiny_settings(optimizer="sgd", lr=0.1, batch_size=batch, grad_accum=accumulate),
                name=f"{name}{forget_rows}",
                store=tmp_path,
            )
        large = weights(tmp_path, f"large{forget_rows}")
        for other in (weights(tmp_path, f"{name}{forget_rows}") for name in ("small", "single")):
            assert all(torch.allclose(large[key], other[key], atol=2e-6) for key in large)
        assert any(value.abs().max() > 1e-2 for key, value in large.items() if "lora_B" in key)


def test_the_bases_dropout_is_off_and_loras_is_on():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=97,
            n_positions=64,
            n_embd=32,
            n_layer=2,
            n_head=2,
            resid_pdrop=0.5,
            embd_pdrop=0.5,
            attn_pdrop=0.5,
        )
    ).train()
    batch = [
        {
            "input_ids": torch.arange(1, 21)[None],
            "attention_mask": torch.ones(1, 20, dtype=torch.long),
            "positions": torch.arange(5, 19),
        }
    ]
    for checkpointing in (False, True):
        for dropout in (0.0, 0.5):
            settings = tiny_settings(dropout=dropout, target_modules="c_attn", gradient_checkpointing=checkpointing)
            with adapted(model, settings) as peft:
                move(peft)
                student = Student(peft, checkpointing).train()
                assert student.training
                one, two = student(batch), student(batch)
                assert torch.equal(one, two) == (dropout == 0)
                student.eval()
                assert torch.equal(student(batch), student(batch))


def test_only_the_adapter_trains(base, snapshot):
    student = add_adapter(base.model, tiny_settings())
    trained = [name for name, p in student.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    assert {p.dtype for _, p in student.named_parameters() if p.requires_grad} == {torch.float32}
    student.unload()


# ---- the pairs


def test_retain_rows_are_dealt_evenly_and_the_same_whatever_came_before():
    pairs = ForgetRetainPairs(7, 5, 3, seed=9)
    dealt = []
    for epoch in range(5):
        pairs.set_epoch(epoch)
        dealt += [row for i in range(7) for row in pairs[i][1]]
    assert {dealt.count(row) for row in range(5)} == {21}
    again = ForgetRetainPairs(7, 5, 3, seed=9)
    again.set_epoch(3)
    assert [again[i][1] for i in (6, 0, 3)] == [dealt[(21 + i) * 3 : (21 + i) * 3 + 3] for i in (6, 0, 3)]
    assert pairs[0][0] == 0 and len(pairs) == 7
    assert ForgetRetainPairs(3, 0, 2, 0)[1] == Pair(1, [])


def test_every_epoch_deals_other_retain_rows(base, tmp_path, monkeypatch):
    seen = []
    real = Collator.__call__
    monkeypatch.setattr(Collator, "__call__", lambda self, pairs: seen.extend(pairs) or real(self, pairs))
    forget(tiny_request(6, 6), base, tiny_settings(epochs=2), store=tmp_path)
    first, second = ({pair.forget: pair.retain for pair in part} for part in (seen[:6], seen[6:]))
    assert sorted(first) == sorted(second) == list(range(6))
    assert sorted(r for rows in first.values() for r in rows) == list(range(6))
    assert first != second and [pair.forget for pair in seen[:6]] != [pair.forget for pair in seen[6:]]


def test_references_are_computed_in_passes_that_change_nothing(base, taught_base):
    """Each row's reference against the row alone."""
    items = [*encoded_facts(taught_base), Encoded((40,), tuple(range(41, 60)))]
    rows = TrainingRows({"answer": items})
    compute_references(base, TrainingSet(retain_loss("kl-answers"), rows))
    for item, state in zip(items, rows.references["answer"]["base"], strict=True):
        ids = torch.tensor([item.prompt_ids + item.answer_ids])
        with torch.no_grad():
            alone = base.model.model(input_ids=ids).last_hidden_state[0, len(item.prompt_ids) - 1 : -1]
        assert torch.allclose(state, alone, atol=1e-5)
    assert rows.cache_bytes() == sum(len(item.answer_ids) for item in items) * 64 * 4
