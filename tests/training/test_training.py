"""The training path on a tiny base: what a run leaves behind, when it ends well and when it doesn't."""

import json
import math
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import asu_lora.training.trainer
from asu_lora.batches.collator import Collator
from asu_lora.batches.forget_retain_pairs import ForgetRetainPairs
from asu_lora.config import ForgetConfig
from asu_lora.data.chat_template import special_ids
from asu_lora.data.encoding import Encoded
from asu_lora.data.training_rows import TrainingRows
from asu_lora.errors import SettingError, TrainingError
from asu_lora.forgetting.forget import forget
from asu_lora.forgetting.prepare import build_losses, training_sets
from asu_lora.losses import TrainingSet, needs_of, retain_loss
from asu_lora.models.loading import load_base
from asu_lora.teacher.fluency import fluency_masks
from asu_lora.teacher.targets import compute_references
from asu_lora.teacher.teacher import Teacher
from asu_lora.training.arguments import training_arguments
from asu_lora.training.new_adapter import adapted, add_adapter
from asu_lora.training.student import Student
from asu_lora.training.trainer import losses
from tests.support.listener import Listener
from tests.support.tiny_run import encoded_facts, rows, tiny_request, tiny_settings


@pytest.fixture(scope="module")
def base(taught_base):
    return load_base(str(taught_base), "fp32", "cpu")


@pytest.fixture
def snapshot(base):
    """The base must be afterwards what it was before: the same modules and weights, plain and in eval mode."""
    before = describe(base.model)
    yield
    assert describe(base.model) == before
    assert not base.model.training and not any(module.training for module in base.model.modules())


def describe(model):
    assert not any(isinstance(module, BaseTunerLayer) for module in model.modules())
    assert not hasattr(model, "peft_config") and not model.is_gradient_checkpointing
    return (
        [(name, type(module)) for name, module in model.named_modules()],
        [(name, p.data_ptr(), p.requires_grad, p.grad) for name, p in model.named_parameters()],
    )


def weights(store, name):
    return load_file(store / name / "adapter_model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# ---- the whole job


def test_a_run_forgets_and_keeps(base, tmp_path, snapshot):
    heard = Listener()
    settings = tiny_settings(epochs=20, lr=5e-3, eval_rows=6)
    result = forget(tiny_request(), base, settings, store=tmp_path, progress=heard)
    assert heard.figures[-1]["forget_loss"] < 0.5 * heard.figures[0]["forget_loss"]
    assert result.before["forget_probability"] > 0.9 and result.before["retain_probability"] > 0.9
    assert result.after["forget_probability"] < 0.7 * result.before["forget_probability"]
    # half of each answer is the name, which the question gives away: it is kept
    assert result.after["forget_rouge"] <= 0.5 * result.before["forget_rouge"]
    assert result.after["retain_probability"] > 0.8 * result.before["retain_probability"]
    assert result.after["retain_rouge"] > 0.9 * result.before["retain_rouge"]
    assert len(heard.figures) == 60 == result.record.training["steps"]
    assert result.record.training["train_loss"] == pytest.approx(sum(f["loss"] for f in heard.figures) / 60)
    assert heard.closed and heard.stages[-1] == "Writing the adapter"
    assert sorted(entry.name for entry in tmp_path.iterdir() if not entry.name.startswith(".")) == ["tiny"]
    assert not (tmp_path / ".runs").exists()


def test_plain_peft_loads_the_adapter_and_answers_the_same(taught_base, base, tmp_path, monkeypatch):
    """Against the student that was in memory when it was written."""
    ids = torch.arange(40, 80)[None]
    seen = []
    real = asu_lora.forgetting.run.write_adapter

    def write(student, *args):
        with torch.no_grad():
            seen.append(student(input_ids=ids).logits)
        return real(student, *args)

    monkeypatch.setattr("asu_lora.forgetting.run.write_adapter", write)
    result = forget(tiny_request(), base, tiny_settings(), store=tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(taught_base, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, result.path)
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        assert torch.allclose(logits, seen[0], atol=1e-6)
        assert not torch.allclose(logits, base.model(input_ids=ids).logits, atol=1e-2)


def test_saving_asks_no_hub(base, tmp_path, monkeypatch):
    """PEFT looks a base up by its name, to see whether embeddings were resized; ours never are."""

    def refuse(*args, **kwargs):
        raise AssertionError("asked the hub")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", refuse)
    named = replace(base, source=replace(base.source, name="someone/some-model"))
    result = forget(tiny_request(2, 2), named, tiny_settings(epochs=1), store=tmp_path)
    config = json.loads((result.path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "someone/some-model" and config["inference_mode"]


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.3}, {"objective": "dpo", "retain_loss": "ap"}])
def test_the_same_seed_gives_the_same_adapter_bit_by_bit(base, tmp_path, changes, snapshot):
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        torch.rand(7)  # whatever was drawn before the run doesn't matter
        forget(tiny_request(), base, tiny_settings(seed=seed, **changes), name=name, store=tmp_path)
    one, two, other = (weights(tmp_path, name) for name in ("one", "two", "other"))
    assert same(one, two) and not same(one, other)


def test_the_defaults_run(base, tmp_path, snapshot):
    """But for the smoothed layers: the tiny base looks its facts up in the first one."""
    config = ForgetConfig(smooth_layers="all", precision="fp32", device="cpu", epochs=1, eval_rows=2)
    assert forget(tiny_request(), base, config, store=tmp_path).record.tau.tau > 1


@pytest.mark.parametrize("objective", ["asu", "asu+idk", "npo", "dpo", "idk", "me", "ga"])
@pytest.mark.parametrize("retain", ["kl-answers", "kl", "none"])
def test_every_objective_runs(base, tmp_path, objective, retain):
    result = forget(
        tiny_request(2, 2), base, tiny_settings(epochs=1, objective=objective, retain_loss=retain), store=tmp_path
    )
    assert math.isfinite(result.record.training["train_loss"])
    assert (result.record.tau is not None) == objective.startswith("asu")


@pytest.mark.parametrize("changes", [{}, {"scheduler": "cosine"}, {"scheduler": "constant"}, {"warmup": 0.9}])
def test_a_run_of_one_step_trains(base, tmp_path, changes):
    result = forget(tiny_request(), base, tiny_settings(epochs=1, batch_size=6, **changes), store=tmp_path / "store")
    assert result.record.training["steps"] == 1
    moved = [bool(weight.any()) for key, weight in weights(tmp_path / "store", result.name).items() if "lora_B" in key]
    assert moved and all(moved)


def test_the_warm_up_is_a_share_of_the_steps(tmp_path):
    arguments = training_arguments(ForgetConfig(warmup=0.05), tmp_path, torch.device("cpu"), torch.float32, False)
    assert [arguments.get_warmup_steps(steps) for steps in (1, 2, 19, 20, 21, 100)] == [0, 0, 0, 1, 2, 5]
    arguments = training_arguments(ForgetConfig(warmup=0.99), tmp_path, torch.device("cpu"), torch.float32, False)
    assert [arguments.get_warmup_steps(steps) for steps in (1, 2, 3)] == [0, 1, 2]


def test_a_request_that_keeps_nothing_says_so(base, tmp_path, snapshot):
    from asu_lora.data.request import ForgetRequest

    request = ForgetRequest.from_rows(rows()[:2], [], "alone")
    with pytest.raises(SettingError, match="--retain-loss none"):
        forget(request, base, tiny_settings(), store=tmp_path)
    forget(request, base, tiny_settings(epochs=1, retain_loss="none"), store=tmp_path)
    assert (tmp_path / "alone").is_dir()


# ---- one copy of the base


def test_one_copy_of_the_base_whatever_happens(base, tmp_path, snapshot):
    """All parameters alive in the process, counted stage by stage: those of the base and of one adapter."""
    import gc

    def alive():
        gc.collect()
        return sum(t.numel() for t in gc.get_objects() if type(t) is torch.nn.Parameter)

    before, counts = alive(), {}

    class Counter(Listener):
        def stage(self, name, total=None):
            super().stage(name, total)
            counts[name] = alive()

        def advance(self, amount=1, **figures):
            super().advance(amount, **figures)
            if figures:
                counts["a step"] = alive()

    result = forget(tiny_request(2, 2), base, tiny_settings(epochs=1), store=tmp_path, progress=Counter())
    adapter = result.record.counts["adapter_parameters"]
    assert counts.pop("Loading the base") == counts.pop("Teacher and base on the forget set") == before
    assert counts["Training"] == counts["a step"] == counts["Writing the adapter"] == before + adapter
    assert result.record.counts["base_parameters"] == sum(p.numel() for p in base.model.parameters())
    assert alive() == before


@pytest.mark.parametrize("stage", ["Teacher and base", "Training", "Answers on the retain set, after", "Writing"])
def test_a_run_that_breaks_off_leaves_a_plain_base_and_an_empty_store(base, tmp_path, stage, snapshot):
    heard = Listener(stop_stage=stage)
    with pytest.raises(KeyboardInterrupt):
        forget(
            tiny_request(2, 2),
            base,
            tiny_settings(epochs=1, eval_rows=2, gradient_checkpointing=True),
            store=tmp_path,
            progress=heard,
        )
    assert heard.closed
    assert not [entry for entry in tmp_path.glob("*") if not entry.name.startswith(".")]
    assert (tmp_path / ".runs").exists() == (stage not in ("Teacher and base", "Training"))  # there is a checkpoint


@pytest.mark.parametrize("modules", ["nothing_like_it", "lm_head", "q_proj,lm_head"])
def test_target_modules_that_cannot_be_leave_a_plain_base(base, tmp_path, modules, snapshot):
    with pytest.raises(SettingError, match=r"target.modules"):
        forget(tiny_request(2, 2), base, tiny_settings(target_modules=modules), store=tmp_path)
    assert not [entry for entry in tmp_path.glob("*") if not entry.name.startswith(".")]


# ---- a loss that is no number


def test_a_loss_that_turns_nan_ends_the_run(base, tmp_path, monkeypatch, snapshot):
    real, calls = asu_lora.training.trainer.losses, []

    def spoiled(*args):
        calls.append(1)
        parts = real(*args)
        return {half: value * (float("nan") if len(calls) == 4 else 1) for half, value in parts.items()}

    monkeypatch.setattr("asu_lora.training.trainer.losses", spoiled)
    with pytest.raises(TrainingError, match="loss became nan at step 4"):
        forget(tiny_request(), base, tiny_settings(), store=tmp_path)
    assert len(calls) == 4
    assert not list(tmp_path.glob("*")) or not (tmp_path / ".runs").exists()
    assert not [entry for entry in tmp_path.glob("*") if not entry.name.startswith(".")]


def test_weights_that_are_no_numbers_never_reach_the_store(base, tmp_path, monkeypatch, snapshot):
    """Say the last step of a run overflows: no later loss would tell."""

    class Spoiled(Listener):
        def advance(self, amount=1, **figures):
            super().advance(amount, **figures)
            if self.stages[-1].startswith("Training") and self.steps == 9:
                student = next(m for m in base.model.modules() if isinstance(m, BaseTunerLayer))
                student.lora_B["default"].weight.data[0, 0] = float("inf")

    with pytest.raises(TrainingError, match="not finite"):
        forget(tiny_request(), base, tiny_settings(), store=tmp_path, progress=Spoiled())
    assert not [entry for entry in tmp_path.glob("*") if not entry.name.startswith(".")]
    assert not (tmp_path / ".runs").exists()


# ---- stop and resume


@pytest.mark.parametrize(
    "changes", [{}, {"dropout": 0.3}, {"grad_accum": 2, "batch_size": 1}, {"retain_per_forget": 2, "epochs": 2.5}]
)
def test_resumed_is_bit_identical_to_uninterrupted(base, tmp_path, changes, snapshot):
    settings = tiny_settings(**changes)
    whole = forget(tiny_request(), base, settings, name="whole", store=tmp_path)
    torch.rand(5)
    with pytest.raises(KeyboardInterrupt):  # 3 steps an epoch: in the middle of the second
        forget(tiny_request(), base, settings, name="broken", store=tmp_path, progress=Listener(stop_at=5))
    folder = tmp_path / ".runs" / "broken"
    assert sorted(entry.name for entry in folder.iterdir()) == ["checkpoint-3", "run.json"]
    assert not (tmp_path / "broken").exists()
    torch.rand(11)
    heard = Listener()
    resumed = forget(tiny_request(), base, settings, name="broken", store=tmp_path, resume=True, progress=heard)
    assert len(heard.figures) == whole.record.training["steps"] - 3
    assert same(weights(tmp_path, "whole"), weights(tmp_path, "broken"))
    assert resumed.record.training["train_loss"] == pytest.approx(whole.record.training["train_loss"])
    assert not (tmp_path / ".runs").exists()


def test_a_run_that_was_interrupted_after_training_trains_no_further(base, tmp_path, snapshot):
    settings = tiny_settings(eval_rows=2)
    with pytest.raises(KeyboardInterrupt):
        forget(
            tiny_request(),
            base,
            settings,
            name="broken",
            store=tmp_path,
            progress=Listener(stop_stage="Answers on the forget set, after"),
        )
    heard = Listener()
    forget(tiny_request(), base, settings, name="broken", store=tmp_path, resume=True, progress=heard)
    forget(tiny_request(), base, settings, name="whole", store=tmp_path)
    assert heard.figures == [] and same(weights(tmp_path, "whole"), weights(tmp_path, "broken"))


def test_resume_is_refused_for_another_run_and_keeps_the_first(base, tmp_path, snapshot):
    with pytest.raises(KeyboardInterrupt):
        forget(tiny_request(), base, tiny_settings(), store=tmp_path, progress=Listener(stop_at=4))
    kept = sorted(tmp_path.glob(".runs/tiny/**/*"))
    for request, settings in ((tiny_request(), tiny_settings(lr=1e-3)), (tiny_request(5), tiny_settings())):
        with pytest.raises(TrainingError, match="other settings, base or request"):
            forget(request, base, settings, store=tmp_path, resume=True)
        assert sorted(tmp_path.glob(".runs/tiny/**/*")) == kept
    heard = Listener()
    forget(tiny_request(), base, tiny_settings(), store=tmp_path, progress=heard)  # without resume: anew
    assert len(heard.figures) == 9


def test_resume_without_an_interrupted_run_begins_at_the_beginning(base, tmp_path):
    heard = Listener()
    forget(tiny_request(2, 2), base, tiny_settings(epochs=1), store=tmp_path, resume=True, progress=heard)
    assert len(heard.figures) == 1


def test_a_checkpoint_holds_no_word_of_the_request(base, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        forget(tiny_request(), base, tiny_settings(), store=tmp_path, progress=Listener(stop_at=4))
    for file in (tmp_path / ".runs").rglob("*"):
        if file.is_file():
            assert b"Anna" not in file.read_bytes() and b"bees" not in file.read_bytes()
    assert json.loads((tmp_path / ".runs" / "tiny" / "run.json").read_text())["config"]["rank"] == 4


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
    assert ForgetRetainPairs(3, 0, 2, 0)[1] == (1, [])


def test_every_epoch_deals_other_retain_rows(base, tmp_path, monkeypatch):
    seen = []
    real = Collator.__call__
    monkeypatch.setattr(Collator, "__call__", lambda self, pairs: seen.extend(pairs) or real(self, pairs))
    forget(tiny_request(6, 6), base, tiny_settings(epochs=2), store=tmp_path)
    first, second = dict((i, r) for i, r in seen[:6]), dict((i, r) for i, r in seen[6:])
    assert sorted(first) == sorted(second) == list(range(6))
    assert sorted(r for rows in first.values() for r in rows) == list(range(6))
    assert first != second and [i for i, _ in seen[:6]] != [i for i, _ in seen[6:]]


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
