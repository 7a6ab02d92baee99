"""The memory plan: parts against real tensors, the simulated step against what torch says it allocates, and --fit."""

import dataclasses
import json

import pytest
import torch
from click.testing import CliRunner
from transformers.pytorch_utils import Conv1D

from asu_lora.batches.token_budget import READING
from asu_lora.cli import main
from asu_lora.errors import SettingError
from asu_lora.forgetting.dry_run import planned_run
from asu_lora.memory_plan import fit, plan_memory
from asu_lora.memory_plan.byte_counts import quantised_weights, weight_bytes
from asu_lora.memory_plan.fit import candidates, parse_size
from asu_lora.memory_plan.meta_simulation import LiveBytes, kernels
from asu_lora.memory_plan.plan import fill_cache
from asu_lora.models.loading import load_base
from asu_lora.training.new_adapter import adapted
from tests.support.lora_folders import save_tiny_gpt2
from tests.support.tiny_base import save_tiny_base, tiny_tokenizer
from tests.support.tiny_run import rows, tiny_request, tiny_settings

CASES = [("fp32", True), ("nf4", True), ("nf4", False)]


@pytest.fixture(scope="module")
def run(tiny_base):
    return planned_run(tiny_request(), str(tiny_base), tiny_settings(eval_rows=4))


def held(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize(("precision", "tied"), CASES)
def test_weights_and_adapter_are_those_of_the_loaded_model(precision, tied, tmp_path):
    folder, config = save_tiny_base(tmp_path, tie_word_embeddings=tied), tiny_settings(precision=precision)
    base, planned = load_base(str(folder), precision, "cpu"), planned_run(tiny_request(), str(folder), config)
    real = held(base.model.parameters())
    for parameter in base.model.parameters():
        if state := getattr(parameter, "quant_state", None):
            real += held([state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code])
    quantised = quantised_weights(planned.model) if precision == "nf4" else {}
    assert weight_bytes(planned.model, quantised) == real
    with adapted(base.model, config) as student:
        adapter = held(p for p in student.parameters() if p.requires_grad)
    parts = plan_memory(planned, config).phases["training"]
    assert parts["adapter"] == parts["gradients"] == adapter
    assert parts["optimizer"] == 2 * adapter


def test_the_maps_of_gpt2_are_in_4_bits_too(tmp_path, monkeypatch):
    """They are no linear layers before they are loaded."""
    monkeypatch.setenv("ASU_LORA_NF4_COMPUTE", "bf16")
    tiny_tokenizer().save_pretrained(save_tiny_gpt2(tmp_path))
    base = load_base(str(tmp_path), "nf4", "cpu")
    states = [state for p in base.model.parameters() if (state := getattr(p, "quant_state", None))]
    real = held(base.model.parameters())
    real += sum(held([s.absmax, s.code, s.offset, s.state2.absmax, s.state2.code]) for s in states)
    plans = {}
    for precision in ("nf4", "bf16"):
        settings = tiny_settings(precision=precision)
        planned = planned_run(tiny_request(), str(tmp_path), settings)
        plans[precision] = plan_memory(planned, settings).phases["training"]
        quantised = quantised_weights(planned.model)
        assert len(states) == len(quantised) == 8
        assert precision == "bf16" or weight_bytes(planned.model, quantised) == real
    assert plans["nf4"]["weights"] == real < plans["bf16"]["weights"]


def test_a_product_with_a_map_of_gpt2_makes_it_whole():
    module, peaks = Conv1D(48, 32).to("meta").requires_grad_(False), []
    for quantised in ({}, {id(module.weight): module.weight}):
        live, x = LiveBytes(vocabulary=7), torch.empty(2, 5, 32, device="meta", requires_grad=True)
        live.ignore([*module.parameters(), x])
        with kernels(quantised), live:
            module(x).sum().backward()
        assert x.grad.shape == x.shape
        peaks.append(sum(live.peak))
    assert peaks[1] - peaks[0] > 0.9 * held([module.weight])


def test_the_directions_that_an_adapter_keeps_off_are_counted(tiny_base, run):
    from asu_lora.data.training_rows import TrainingRows
    from asu_lora.training.kept_directions import kept_directions

    base, config = load_base(str(tiny_base), "fp32", "cpu"), tiny_settings(keep_off=0.5)
    with adapted(base.model, config) as student:
        rows = TrainingRows({"answer": run.sets["retain"].rows.answers})
        kept = kept_directions(student, rows, 0.5, base.pad_id, None)
    real = held([basis for _, basis in kept])
    assert plan_memory(run, config).phases["training"]["kept directions"] == real > 0
    assert plan_memory(run, tiny_settings()).phases["training"]["kept directions"] == 0


def test_the_maps_that_are_rounded_and_an_attacker_are_counted(tiny_base, run):
    from asu_lora.training.attacker import like
    from asu_lora.training.rounded_maps import RoundedMap, merged_and_rounded

    base, config = load_base(str(tiny_base), "fp32", "cpu"), tiny_settings(settle_rounded=0.25, attacker_lr=1e-3)
    with adapted(base.model, config) as student, merged_and_rounded(student, 1.0, torch.float32):
        maps = [module for module in student.modules() if isinstance(module, RoundedMap)]
    states = [each.state for each in maps]
    real = [t for s in states for t in (s.absmax, s.code, s.offset, s.state2.absmax, s.state2.code)]
    plan, without = plan_memory(run, config), plan_memory(run, tiny_settings())
    assert plan.phases["rounding"]["rounded maps"] == held([*real, *(each.packed for each in maps)]) > 0
    assert plan.phases["rounding"]["adapter"] == plan.phases["training"]["adapter"]
    with adapted(base.model, config) as student:
        student.add_adapter("attacker", like(student.peft_config["default"]))
        own = [parameter for name, parameter in student.named_parameters() if ".attacker." in name]
    assert plan.phases["training"]["attacker"] == 4 * held(own) > 0  # with its gradients and AdamW's two means
    assert "rounding" not in without.phases and without.phases["training"]["attacker"] == 0


def test_the_cache_is_as_large_as_the_references_of_a_run(tiny_base, run):
    from asu_lora.data.training_rows import TrainingRows
    from asu_lora.losses import TrainingSet
    from asu_lora.teacher.fluency import MOST_RULED_OUT
    from asu_lora.teacher.targets import compute_references
    from asu_lora.teacher.teacher import Teacher

    assert run.sets.keys() == {"forget", "retain", "on_policy"}
    base, real = load_base(str(tiny_base), "fp32", "cpu"), 0
    for name, planned in run.sets.items():
        filled = TrainingRows(planned.rows.views)
        if name == "on_policy":
            lengths = [len(item.answer_ids) for item in filled.answers]
            most = [torch.zeros(length, MOST_RULED_OUT, dtype=torch.int32) for length in lengths]
            filled.references = {"answer": {"ruled_out": most}}
        compute_references(base, TrainingSet(planned.loss, filled), Teacher(2.0))
        real += filled.cache_bytes()
    assert fill_cache(run, None) == real > 0


# packed and checkpointed, a layer also holds each line's own position embeddings, as arguments that autograd knows not of
@pytest.mark.parametrize(
    ("changes", "packed"),
    [
        ({}, False),
        ({"gradient_checkpointing": True}, False),
        ({"adapter_layers": "1"}, False),
        ({"precision": "nf4"}, False),
        ({}, True),
        ({"adapter_layers": "1"}, True),
        ({"precision": "nf4"}, True),
    ],
)
def test_what_autograd_keeps_is_what_a_real_step_keeps(tiny_base, changes, packed, monkeypatch):
    """The simulated forward pass against the tensors that a real one saves for its backward pass."""
    from asu_lora.memory_plan.meta_simulation import kernels, on_meta
    from asu_lora.memory_plan.planned_run import live_bytes
    from asu_lora.training.cast_recomputation import _Casts
    from asu_lora.training.student import Student

    config = tiny_settings(**changes)
    run = planned_run(tiny_request(), str(tiny_base), config)
    batch = {
        "input_ids": torch.ones(3, 40, dtype=torch.long),
        "attention_mask": torch.ones(3, 40, dtype=torch.long),
        "positions": torch.arange(20),
    }
    batch["attention_mask"][0, 30:] = 0
    if packed:
        del batch["attention_mask"]
        batch["position_ids"] = torch.arange(20).repeat(3, 2)
    saved = {}
    pack = _Casts.pack

    def keep(casts, tensor):
        kept = pack(casts, tensor)
        storage = (kept if isinstance(kept, torch.Tensor) else kept.cast.source).untyped_storage()
        saved[storage.data_ptr()] = storage
        return kept

    with adapted(load_base(str(tiny_base), config.precision, "cpu").model, config) as student:
        own = {p.untyped_storage().data_ptr() for p in student.parameters()}
        own |= {b.untyped_storage().data_ptr() for b in student.buffers()}
        module = Student(student, config.gradient_checkpointing)
        module.train()
        with monkeypatch.context() as patch:
            patch.setattr(_Casts, "pack", keep)
            hidden = module([batch])
        real = sum(storage.nbytes() for at, storage in saved.items() if at not in own)
    assert hidden.requires_grad
    quantised = quantised_weights(run.model) if config.precision == "nf4" else {}
    with adapted(run.model, config) as student:
        live = live_bytes(run)
        live.ignore(student.parameters())
        module = Student(student, config.gradient_checkpointing)
        module.train()
        with kernels(quantised), live, torch.enable_grad():
            hidden = module([on_meta(batch)])
            simulated = live.live["others"]
    # checkpointing also keeps mask and rotary angles, in a closure and not as saved tensors: much of so small a model
    assert simulated == pytest.approx(real, rel=0.2 if config.gradient_checkpointing else 0.1)


def test_more_rows_and_longer_rows_take_more(tiny_base, run):
    def training(**changes):
        return plan_memory(run, tiny_settings(**changes)).totals["training"]

    assert training(batch_size=1) < training(batch_size=2) < training(batch_size=6)
    assert training(batch_size=6, gradient_checkpointing=True) < training(batch_size=6)
    assert training(rank=4) < training(rank=16)
    short = planned_run(tiny_request(), str(tiny_base), tiny_settings(max_length=60))
    assert plan_memory(short, tiny_settings()).totals["training"] < training()


def test_what_enters_the_first_adapted_layer_is_counted(tiny_base, run):
    from asu_lora.models.frozen_layers import find_frozen_layers

    config = tiny_settings(adapter_layers="1")
    every, upper = (plan_memory(run, settings).phases["training"] for settings in (tiny_settings(), config))
    entries = find_frozen_layers(load_base(str(tiny_base), "fp32", "cpu").model, 1).compute(
        [item for each in run.sets.values() for item in each.rows.answers], 0
    )
    assert upper["cache"] - every["cache"] == held(entries) > 0
    assert upper["activations"] < every["activations"]


def test_logits_come_in_the_chunks_of_the_device_it_will_run_on(tiny_base, run, monkeypatch):
    """An accelerator's are larger; the meta device's own would count as such."""
    from asu_lora.models.output_head import FrozenHead

    real, seen = FrozenHead.chunk, []
    monkeypatch.setattr(FrozenHead, "chunk", lambda head: seen.append(real(head)) or seen[-1])
    for device in ("cpu", "cuda"):
        plan_memory(dataclasses.replace(run, device=torch.device(device)), tiny_settings())
    chunk = real(FrozenHead(load_base(str(tiny_base), "fp32", "cpu").model))
    assert seen[0] == chunk and seen[-1] >= 4 * chunk


@pytest.fixture
def short_reading(monkeypatch):
    """In so small a model the passes without gradients would take the most."""
    monkeypatch.setitem(READING, "cpu", 64)


def test_fit_changes_nothing_but_micro_batches_and_stays_within_the_budget(run, short_reading):
    config = tiny_settings(batch_size=6, grad_accum=2, micro_batch_tokens=400)
    full = plan_memory(run, config).peak
    assert fit(run, config, full)[0] == config
    settings, plan = fit(run, config, full - 1)
    assert settings == dataclasses.replace(config, micro_batch_tokens=200) and plan.peak < full
    odd = dataclasses.replace(config, micro_batch_tokens=100)  # half of it is below the smallest that is tried
    alone = dataclasses.replace(odd, micro_batch_tokens=1)
    assert fit(run, odd, plan_memory(run, alone).peak)[0] in (odd, alone)
    assert [each.micro_batch_tokens for each in candidates(odd, 100)] == [100, 1, 100, 1]
    single = tiny_settings(micro_batch_tokens=1)
    settings, plan = fit(run, single, plan_memory(run, single).peak - 1)
    assert settings == dataclasses.replace(single, gradient_checkpointing=True)
    with pytest.raises(SettingError, match=r"doesn't fit into 100\.0 MB.*--max-length.*smaller base"):
        fit(run, config, 100_000_000)


def test_a_larger_batch_takes_no_more_than_its_micro_batches(run):
    def training(**changes):
        return plan_memory(run, tiny_settings(micro_batch_tokens=200, **changes)).totals["training"]

    assert training(batch_size=6, retain_per_forget=3) == pytest.approx(training(batch_size=4), rel=0.01)


def test_sizes_of_memory():
    assert parse_size("12GB") == 12e9 and parse_size("1.5 GiB") == 1.5 * 2**30 and parse_size("800m") == 8e8
    for text in ("request.jsonl", "0", "-1GB", "many"):
        with pytest.raises(SettingError, match="12GB"):
            parse_size(text)


def test_the_commands_say_plan_and_changes(tiny_base, tmp_path, short_reading):
    for name, part in (("f", rows()[:6]), ("r", rows()[6:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    words = [
        "forget",
        str(tmp_path / "f.jsonl"),
        "--retain",
        str(tmp_path / "r.jsonl"),
        "--base",
        str(tiny_base),
        "--store",
        str(tmp_path / "store"),
        "--precision",
        "fp32",
        "--device",
        "cpu",
        "--dry-run",
    ]
    plan = json.loads(CliRunner().invoke(main, [*words, "--json"], catch_exceptions=False).stdout)
    memory = plan["memory"]
    assert memory["peak_bytes"] == sum(memory["phases"][memory["peak_phase"]].values())
    assert plan["steps"].endswith("each of 4 forget and 4 retain rows")
    shown = CliRunner().invoke(main, [*words, "--fit", str(memory["peak_bytes"] - 1)], catch_exceptions=False)
    assert "--fit: --micro-batch-tokens 256; expected peak" in shown.stderr and "Memory: at most" in shown.stdout
    refused = CliRunner().invoke(main, [*words, "--fit", "1MB"])
    assert refused.exit_code == 2 and "doesn't fit into 1.0 MB" in refused.stderr
