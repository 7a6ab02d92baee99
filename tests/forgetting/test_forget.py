"""A whole run on a tiny base: what it leaves behind, when it ends well and when it doesn't."""

import json
import math
import random
from dataclasses import replace

import numpy
import pytest
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM

import asu_lora.forgetting.run
from asu_lora.config import ForgetConfig
from asu_lora.data.request import ForgetRequest
from asu_lora.data.retain_pool import RetainPool
from asu_lora.errors import DataError, SettingError, TrainingError
from asu_lora.forgetting.dry_run import plan_run
from asu_lora.forgetting.forget import forget
from asu_lora.forgetting.result import still_told
from asu_lora.losses.forget.asu import ASU
from tests.support.adapter_weights import same, weights
from tests.support.listener import Listener
from tests.support.tiny_run import rows, tiny_request, tiny_settings

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
    assert not any("still says" in note for note in heard.notes)
    assert sorted(entry.name for entry in tmp_path.iterdir() if not entry.name.startswith(".")) == ["tiny"]
    assert not (tmp_path / ".runs").exists()
    # whoever may read one of its files, may read them all: it may be served by somebody else
    assert len({file.stat().st_mode for file in result.path.iterdir()}) == 1


def test_what_is_still_told_is_said(base, tmp_path):
    heard = Listener()
    forget(tiny_request(), base, tiny_settings(lr=1e-9, epochs=1, eval_rows=6), store=tmp_path, progress=heard)
    assert any(
        "still says as much of the answers as before (ROUGE-L 1.00, before 1.00)" in note for note in heard.notes
    )
    assert still_told({"forget_rouge": 0.1}, {"forget_rouge": 0.1}) is None, "it never knew them"
    assert still_told({}, {}) is None and still_told({"forget_rouge": 0.7}, {"forget_rouge": 0.3}) is None


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


def test_gradient_checkpointing_leaves_nothing_on_the_base(base, tmp_path):
    def attributes():
        return {name: set(vars(module)) for name, module in base.model.named_modules()}

    before = attributes()
    forget(tiny_request(), base, tiny_settings(epochs=1, gradient_checkpointing=True), store=tmp_path)
    assert attributes() == before


def test_saving_asks_no_hub(base, tmp_path, monkeypatch):
    """PEFT looks a base up by its name, to see whether embeddings were resized; ours never are."""

    def refuse(*args, **kwargs):
        raise AssertionError("asked the hub")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", refuse)
    named = replace(base, source=replace(base.source, name="someone/some-model"))
    result = forget(tiny_request(2, 2), named, tiny_settings(epochs=1), store=tmp_path)
    config = json.loads((result.path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "someone/some-model" and config["inference_mode"]
    assert config["target_modules"] == sorted(config["target_modules"]), "a set's order differs between two processes"


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


@pytest.mark.parametrize("stage", ["Teacher and base", "Training", "Answers, after", "Writing"])
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
    real, calls = ASU.__call__, []

    def spoiled(*args):
        calls.append(1)
        return real(*args) * (float("nan") if len(calls) == 4 else 1)

    monkeypatch.setattr(ASU, "__call__", spoiled)
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


@pytest.mark.parametrize("nothing", [{"forget_coeff": 0.0}, {"tau": 1.0, "keep_speaking": False}])
def test_an_adapter_that_has_learnt_nothing_is_refused(base, tmp_path, nothing, snapshot):
    with pytest.raises(TrainingError, match="has learnt nothing, its update is 0"):
        forget(tiny_request(), base, tiny_settings(**nothing, epochs=1, forget_dose=2.0), store=tmp_path)
    assert not (tmp_path / "tiny").exists() and not (tmp_path / ".runs").exists()


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"objective": "idk", "attacker_lr": 1e-3}, SettingError, "idk never looks at the true answers"),
        ({"max_length": 8, "openings": 1}, DataError, "leaves no room for its answer"),
        ({"objective": "rmu", "loss_settings": "layer=9"}, SettingError, "The layer of rmu is 9"),
    ],
)
def test_what_can_be_refused_is_before_retain_rows_are_chosen(base, tmp_path, settings, error, said, snapshot):
    """The base reads up to 5000 rows of a pool for that."""
    pool = RetainPool(tuple(tiny_request().retain))
    request, heard = ForgetRequest(tiny_request().forget, (), "pool", pool=pool), Listener()
    with pytest.raises(error, match=said):
        forget(request, base, tiny_settings(**settings), store=tmp_path, progress=heard)
    assert heard.stages == ["Loading the base"]


def test_a_date_that_the_template_does_not_write_is_told(base, taught_base, tmp_path):
    settings, heard = tiny_settings(template_date="2026-01-31", epochs=1), Listener()
    said = "The base's chat template writes no date: --template-date changes nothing."
    forget(tiny_request(2, 2), base, settings, store=tmp_path, progress=heard)
    plan, _ = plan_run(tiny_request(2, 2), str(taught_base), settings, name="other", store=tmp_path)
    assert said in heard.notes and said in plan["notes"]


def test_a_callers_random_numbers_go_on_where_they_were(base, tmp_path):
    """A loop that draws a request and trains on it draws another one each time."""

    def drawn():
        return random.random(), float(numpy.random.rand()), float(torch.rand(1))

    random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
    expected = [drawn(), drawn(), drawn()]
    random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
    found = [drawn()]
    forget(tiny_request(2, 2), base, tiny_settings(epochs=1), store=tmp_path)
    found.append(drawn())
    with pytest.raises(TrainingError):
        forget(tiny_request(2, 2), base, tiny_settings(epochs=3, lr=1e30), name="broken", store=tmp_path)
    found.append(drawn())
    assert found == expected
