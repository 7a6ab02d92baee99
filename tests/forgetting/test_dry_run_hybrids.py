"""Bases whose tokens meet otherwise than in attention: a dry run refuses what the run would refuse, in its words."""

import json

import pytest
import torch
import transformers as tf
from click.testing import CliRunner

from asu_lora.cli import main
from asu_lora.errors import AdapterError, SmoothingError
from asu_lora.forgetting.dry_run import plan_run
from asu_lora.teacher.smoothing import attention_smoothing
from tests.support.lora_folders import save_lora
from tests.support.tiny_base import save_tiny_base, tiny_tokenizer
from tests.support.tiny_run import tiny_request, tiny_settings

SIZES = {"vocab_size": 320, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4,
         "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": None, "bos_token_id": None}  # fmt: skip
STATES = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_expand": 2, "mamba_d_state": 8, "mamba_n_groups": 1}
HALF = ["conv", "full_attention"] * 2
BARE = {"vocab_size": 320, "hidden_size": 16, "num_hidden_layers": 2}
BASES = {
    "rwkv": tf.RwkvConfig(**BARE, attention_hidden_size=16),
    "mamba": tf.MambaConfig(**BARE, state_size=4),
    "mamba2": tf.Mamba2Config(**BARE, state_size=4, num_heads=4, head_dim=8, n_groups=1),
    "xlstm": tf.xLSTMConfig(**BARE, num_heads=2),
    "recurrent_gemma": tf.RecurrentGemmaConfig(**BARE | {"num_hidden_layers": 3}, num_attention_heads=2,
                                               num_key_value_heads=1, intermediate_size=32, lru_width=16),
    "jamba": tf.JambaConfig(**SIZES, num_experts=4, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=4),
    "bamba": tf.BambaConfig(**SIZES, **STATES, attn_layer_indices=[1, 3]),
    "granite_hybrid": tf.GraniteMoeHybridConfig(**SIZES, **STATES, num_local_experts=4, num_experts_per_tok=2,
                                                shared_intermediate_size=8, layer_types=["mamba", "attention"] * 2),
    "zamba2": tf.Zamba2Config(**SIZES, attention_hidden_size=32, mamba_d_state=4, num_mem_blocks=1, mamba_headdim=8,
                              hybrid_layer_ids=[1, 3], layer_types=["mamba", "hybrid"] * 2, n_mamba_heads=4),
    "lfm2": tf.Lfm2Config(**SIZES, layer_types=HALF),
    "qwen3_next": tf.Qwen3NextConfig(**SIZES, head_dim=8, num_experts=4, num_experts_per_tok=2, linear_key_head_dim=4,
                                     moe_intermediate_size=8, shared_expert_intermediate_size=8,
                                     linear_value_head_dim=4, linear_num_key_heads=2, linear_num_value_heads=2),
    "minimax": tf.MiniMaxConfig(**SIZES, head_dim=8, num_local_experts=4),
}  # fmt: skip


def save(name, folder):
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(BASES[name]).eval()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", BASES)
def test_a_dry_run_refuses_to_smooth_what_has_no_attention(name, tmp_path):
    model = save(name, tmp_path / name)
    with pytest.raises(SmoothingError) as of_the_run, attention_smoothing(model, 3.0):
        pass
    with pytest.raises(SmoothingError) as of_the_dry_run:
        plan_run(tiny_request(1, 1), str(tmp_path / name), tiny_settings(), name="a", store=tmp_path / "store")
    assert str(of_the_dry_run.value) == str(of_the_run.value)


@pytest.mark.parametrize("name", ["jamba", "bamba", "mamba", "lfm2", "zamba2"])
def test_a_loss_without_a_teacher_needs_no_attention(name, tmp_path):
    save(name, tmp_path / name)
    settings = tiny_settings(objective="npo")
    told, memory = plan_run(tiny_request(1, 1), str(tmp_path / name), settings, name="a", store=tmp_path / "store")
    assert told["method"].startswith("npo") and memory.peak > 0


def test_code_that_looks_at_numbers_leaves_activations_out_of_the_plan_and_says_so(tmp_path, monkeypatch):
    config = tf.JetMoeConfig(vocab_size=320, hidden_size=16, intermediate_size=16, num_hidden_layers=2, kv_channels=8,
                             num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2)  # fmt: skip
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "jetmoe")
    tiny_tokenizer().save_pretrained(tmp_path / "jetmoe")
    settings = tiny_settings(objective="npo")
    told, memory = plan_run(tiny_request(1, 1), str(tmp_path / "jetmoe"), settings, name="a", store=tmp_path / "store")
    assert "can't be planned" in told["notes"] and "activations come on top" in told["notes"]
    assert "activations" not in memory.phases["training"] and memory.phases["training"]["weights"] > 0
    rows = tmp_path / "f.jsonl"
    rows.write_text(json.dumps({"question": "Who is it?", "answer": "It is Ada."}) + "\n")
    words = ["forget", str(rows), "--base", str(tmp_path / "jetmoe"), "--objective", "npo", "--precision", "fp32"]
    result = CliRunner().invoke(main, [*words, "--device", "cpu", "--fit", "1GB", "--store", str(tmp_path / "store")])
    assert result.exit_code == 2 and "can't be planned" in result.stderr and "Traceback" not in result.stderr


def test_an_adapter_beneath_that_has_no_place_is_named_before_the_run(tiny_base, tmp_path):
    deep = save_lora(save_tiny_base(tmp_path / "deep", num_hidden_layers=4), tmp_path / "sibling")
    with pytest.raises(AdapterError, match=r"'sibling' can't be used: model.layers.2.self_attn.q_proj.lora_A.weight "):
        plan_run(
            tiny_request(1, 1),
            str(tiny_base),
            tiny_settings(),
            name="a",
            store=tmp_path / "store",
            on_top_of=[str(deep)],
        )
