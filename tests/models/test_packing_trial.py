"""Rows packed end to end: the states, losses and adapters of rows read alone, or no packing at all."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import asu_lora.batches.collator
from asu_lora.batches.forward_passes import forward_passes
from asu_lora.batches.packing import pack_group
from asu_lora.data.encoding import Encoded
from asu_lora.forgetting.forget import forget
from asu_lora.models.decoder import answer_hidden, decoder_and_layers
from asu_lora.models.frozen_layers import find_frozen_layers
from asu_lora.models.hidden_states import hidden_states
from asu_lora.models.packing_trial import keeps_rows_apart, packing_of
from asu_lora.teacher.teacher_states import teacher_states
from tests.support.small_models import SMALL, model_of
from tests.support.tiny_run import tiny_request, tiny_settings

GENERATOR = torch.Generator().manual_seed(3)
ROWS = [
    Encoded(*(tuple(torch.randint(1, 64, (length,), generator=GENERATOR).tolist()) for length in lengths))
    for lengths in ((4, 3), (2, 2), (19, 3), (1, 9), (6, 1), (11, 13))
]


@pytest.fixture
def packed(monkeypatch):
    """Rows are packed on the CPU too; holds the shape of every packed pass."""
    monkeypatch.setattr("asu_lora.models.packing_trial.PADDED_DEVICES", set())
    shapes = []
    monkeypatch.setattr(
        "asu_lora.batches.forward_passes.pack_group",
        lambda lines, pad_id: shapes.append((len(lines), sum(map(len, lines)))) or pack_group(lines, pad_id),
    )
    return shapes


def alone(model, item: Encoded) -> torch.Tensor:
    ids = torch.tensor([item.prompt_ids + item.answer_ids])
    with torch.no_grad():
        return model.get_decoder()(input_ids=ids).last_hidden_state[0, len(item.prompt_ids) - 1 : -1]


# ---- models


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "mistral", "gpt_neox", "qwen3"])
@pytest.mark.parametrize("packing", ["lines", "line"])
def test_states_are_those_of_each_row_alone(kind, packing):
    """Gemma 2 and Mistral look back 8 tokens only: the window counts from where a row begins."""
    model = model_of(kind)
    with torch.no_grad():
        ((group, batch),) = forward_passes(ROWS, 0, packing=packing)
        states = answer_hidden(model.get_decoder(), batch).split([len(ROWS[i].answer_ids) for i in group])
    assert batch["input_ids"].shape[0] == (2 if packing == "lines" else 1)
    for index, found in zip(group, states, strict=True):
        torch.testing.assert_close(found, alone(model, ROWS[index]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "mistral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_are_packed(kind, dtype, packed):
    assert packing_of(model_of(kind).to(dtype)) == "lines"


# OPT and XGLM count positions through the line; Bloom, Mamba and GPT-OSS make masks, or none, without positions; a part
# of Falcon-H1 is recurrent; GPT-Neo's layers end with their table of 64 positions, and a line may not
@pytest.mark.parametrize(
    ("kind", "special"),
    [
        ("opt", dict(ffn_dim=48, word_embed_proj_dim=32)),
        ("bloom", dict(n_layer=4, n_head=4)),
        ("mamba", {}),
        ("gpt_oss", dict(num_local_experts=4)),
        ("falcon_h1", dict(mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=8)),
        ("xglm", dict(d_model=32, ffn_dim=48, attention_heads=4, num_layers=4)),
        ("gpt_neo", dict(num_layers=4, num_heads=4, attention_types=[[["global", "local"], 2]], window_size=8)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_are_not(kind, special, dtype, packed):
    """In bf16, too, where what leaks from row to row is no larger than rounding."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SMALL | special))).eval().to(dtype)
    assert packing_of(model) is None
    rows = [*ROWS, Encoded(tuple(range(3, 50)), (7, 8, 9))]
    for found, item in zip(hidden_states(model.float(), rows, 0), rows, strict=True):
        torch.testing.assert_close(found, alone(model, item), rtol=1e-4, atol=1e-4)
    assert not packed


def test_a_trial_that_tells_nothing_is_no_leave():
    """Attention that adds nothing: rows are kept apart today, and who knows with the weights of tomorrow."""
    model = model_of("llama")
    for layer in model.get_decoder().layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    decoder, layers = decoder_and_layers(model)
    assert not keeps_rows_apart(decoder, layers[0])


def test_rows_are_padded_on_the_cpu_and_tried_once_elsewhere(monkeypatch):
    model, calls = model_of("llama"), []
    model.get_decoder().register_forward_pre_hook(lambda *_: calls.append(1))
    assert packing_of(model) is None and not calls
    assert packing_of(model, torch.device("cuda")) == "lines" and len(calls) == 5
    assert packing_of(model, torch.device("cuda")) == "lines" and len(calls) == 5
    assert packing_of(torch.nn.Linear(2, 2), torch.device("cuda")) is None


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_teacher_and_cached_layers(kind, tau, packed):
    model = model_of(kind)
    entry = find_frozen_layers(model, 2)
    entries, finals, _ = entry.compute_whole(ROWS, 0)
    assert all(torch.equal(*pair) for pair in zip(entries, entry.compute(ROWS, 0), strict=True))
    found = teacher_states(model, ROWS, 0, tau, [2, 3], entry=entry, entries=entries)
    assert packed == [(2, len(ROWS))] * 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asu_lora.models.packing_trial.PADDED_DEVICES", {"cpu"})
        padded = teacher_states(model, ROWS, 0, tau, [2, 3])
        for whole, part in zip([*entry.compute(ROWS, 0), *padded], [*entries, *found], strict=True):
            torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-5)
    for final, item in zip(finals, ROWS, strict=True):
        torch.testing.assert_close(final, alone(model, item), rtol=1e-5, atol=1e-5)


# ---- runs


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(gradient_checkpointing=True, micro_batch_tokens=200),
        dict(objective="asu+idk", retain_loss="gd"),
        dict(objective="npo", eval_rows=4),
    ],
)
def test_a_run_gives_the_same_adapter_packed_or_padded(taught_base, tmp_path, monkeypatch, changes):
    check_that_packing_changes_nothing(taught_base, tmp_path, monkeypatch, changes)


def test_a_run_in_nf4_gives_the_same_adapter_packed_or_padded(taught_base, tmp_path, monkeypatch, nf4_compute):
    changes = dict(precision="nf4", adapter_layers="1", smooth_layers="1")
    check_that_packing_changes_nothing(taught_base, tmp_path, monkeypatch, changes)


def check_that_packing_changes_nothing(taught_base, tmp_path, monkeypatch, changes):
    passes, found, real = [], [], asu_lora.batches.collator.Collator.__call__
    monkeypatch.setattr(
        asu_lora.batches.collator.Collator,
        "__call__",
        lambda self, pairs: passes.append(real(self, pairs)["micro_batches"]) or real(self, pairs),
    )
    for name in ("padded", "packed"):
        if name == "packed":
            assert not any("position_ids" in batch for step in passes for part in step for batch in part["passes"])
            passes.clear()
            monkeypatch.setattr("asu_lora.models.packing_trial.PADDED_DEVICES", set())
        result = forget(tiny_request(), str(taught_base), tiny_settings(**changes), name=name, store=tmp_path)
        found.append((load_file(result.path / "adapter_model.safetensors"), result.record.training["train_loss"]))
    assert all("position_ids" in batch for step in passes for part in step for batch in part["passes"])
    assert all(len(part["passes"]) == 1 for step in passes for part in step)
    (padded, padded_loss), (together, loss) = found
    assert loss == pytest.approx(padded_loss, rel=1e-4)
    for name, weight in padded.items():
        torch.testing.assert_close(together[name], weight, rtol=1e-2, atol=2e-4)
