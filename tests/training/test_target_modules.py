"""What all-linear adapts: the text decoder's linear maps on bases of every kind, and what is left out is said."""

import pytest
import torch
import transformers as tf
from peft import PeftModel

from asu_lora.adapters.lora_folder import read_lora
from asu_lora.config import ForgetConfig
from asu_lora.errors import SettingError
from asu_lora.training.new_adapter import adapted
from asu_lora.training.target_modules import left_out, linear_names, note_left_out

SIZES = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2}
BASES = {
    "mixtral": tf.MixtralConfig(**SIZES, num_local_experts=4),
    "qwen3_moe": tf.Qwen3MoeConfig(**SIZES, **EXPERTS, mlp_only_layers=[0]),
    "gpt_oss": tf.GptOssConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
    "deepseek_v3": tf.DeepseekV3Config(
        **{key: value for key, value in SIZES.items() if key != "head_dim"}, moe_intermediate_size=8,
        n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, first_k_dense_replace=1, q_lora_rank=8,
        kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4,
    ),
    "gemma3": tf.Gemma3Config(
        text_config={**SIZES, "sliding_window": 8},
        vision_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4, image_token_index=60, boi_token_index=61, eoi_token_index=62,
    ),
    "qwen2_vl": tf.Qwen2VLConfig(
        text_config={**SIZES, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2},
    ),
}  # fmt: skip


def model_of(name):
    torch.manual_seed(0)
    config = BASES[name]
    auto = tf.AutoModelForImageTextToText if name in ("gemma3", "qwen2_vl") else tf.AutoModelForCausalLM
    return auto.from_config(config).eval()


def settings(**changes):
    return ForgetConfig(**({"precision": "fp32", "rank": 2} | changes))


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(1, 9)[None]).logits


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("layers", ["all", "1"])
def test_an_adapter_is_plain_factors_of_the_decoders_modules(name, layers, tmp_path):
    model = model_of(name)
    with adapted(model, settings(adapter_layers=layers)) as student:
        trained = {key for key, parameter in student.named_parameters() if parameter.requires_grad}
        student.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    assert trained and not any("vis" in key or "experts." in key for key in trained)
    lora = read_lora(tmp_path / "a")  # what merge and combine take
    assert 2 * len(lora.modules) == len(trained)
    assert layers == "all" or all("layers.1." in module for module in lora.modules)


@pytest.mark.parametrize("name", BASES)
def test_an_adapter_is_read_back_as_it_was(name, tmp_path):
    model = model_of(name)
    with adapted(model, settings()) as student:
        for parameter in student.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        student.save_pretrained(tmp_path / "a", save_embedding_layers=False)
        trained = logits_of(student)
    plain = logits_of(model)
    read = logits_of(PeftModel.from_pretrained(model, tmp_path / "a").eval())
    assert torch.allclose(read, trained, atol=1e-5) and not torch.allclose(read, plain, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("mixtral", ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]),
        ("gpt_oss", ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]),
        ("qwen3_moe", ["mlp.down_proj", "mlp.experts.down_proj", "mlp.experts.gate_up_proj", "mlp.gate_proj", "mlp.up_proj"]),
        ("gemma3", []),
        ("qwen2_vl", []),
    ],
)  # fmt: skip
def test_experts_without_an_adapter_are_named(name, missing):
    with adapted(model_of(name), settings()) as student:
        names, note = left_out(student), note_left_out(student)
    assert [each for each in names if each in missing] == missing and bool(names) == bool(missing)
    assert note is None if not missing else "mixture of experts" in note and "%" in note


def test_layers_of_an_expert_kind_that_a_user_names_are_refused():
    for names in ("gate_proj,up_proj,down_proj", "q_proj,down_proj", "up_proj"):
        with (
            pytest.raises(SettingError, match="taken for the experts"),
            adapted(model_of("deepseek_v3"), settings(target_modules=names)),
        ):
            pass


def test_names_that_a_vision_tower_shares_stay_out_of_it():
    with adapted(model_of("gemma3"), settings(target_modules="q_proj,v_proj", adapter_layers="all")) as student:
        keys = [key for key, parameter in student.named_parameters() if parameter.requires_grad]
    assert len(keys) == 8 and all("language_model.layers" in key for key in keys)


def test_the_head_is_no_linear_map_of_a_layer():
    assert "lm_head" not in linear_names(model_of("mixtral"))


ROUTED = {
    "llama4": (tf.Llama4TextConfig(**SIZES, intermediate_size_mlp=32, num_local_experts=4, interleave_moe_layer_step=2),
               "feed_forward.router"),
    "phimoe": (tf.PhimoeConfig(**SIZES, num_local_experts=4), "mlp.router"),
    "qwen2_moe": (tf.Qwen2MoeConfig(**SIZES, **EXPERTS, shared_expert_intermediate_size=8), "mlp.shared_expert_gate"),
    "hunyuan": (tf.HunYuanMoEV1Config(**SIZES, num_experts=4, moe_topk=2), "mlp.gate.wg"),
    "afmoe": (tf.AfmoeConfig(**SIZES, **EXPERTS, num_dense_layers=1), "mlp.router.gate"),
    "jetmoe": (tf.JetMoeConfig(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
                               num_key_value_heads=2, kv_channels=8, num_local_experts=4, num_experts_per_tok=2),
               "mlp.router.layer"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROUTED)
def test_the_module_that_chooses_experts_gets_no_adapter(name):
    config, router = ROUTED[name]
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    assert any(path.endswith(router) for path, _ in model.named_modules())
    with adapted(model, settings(adapter_layers="all")) as student:
        trained = [key for key, parameter in student.named_parameters() if parameter.requires_grad]
        assert trained and not any(f"{router}." in key for key in trained)
        assert not any(router in path for path in left_out(student))  # it is meant so, and no loss
        logits_of(student)


def test_a_router_that_is_named_is_adapted_where_a_lora_fits_it_and_refused_where_not():
    hunyuan, llama = (tf.AutoModelForCausalLM.from_config(ROUTED[name][0]) for name in ("hunyuan", "llama4"))
    with adapted(hunyuan, settings(target_modules="wg", adapter_layers="all")) as student:
        assert any("gate.wg.lora_A" in key for key, _ in student.named_parameters())
    with pytest.raises(SettingError, match="feed_forward.router .* is a Llama4Router, which is no plain linear map"):
        adapted(llama, settings(target_modules="q_proj,router", adapter_layers="all")).__enter__()
    assert not any("lora" in name for name, _ in llama.named_parameters())


def test_a_gate_that_widens_is_part_of_an_mlp_and_no_router():
    model = model_of("gemma3")
    for layer in model.model.language_model.layers:
        layer.mlp.gate = layer.mlp.gate_proj
        del layer.mlp.gate_proj
    assert "gate" in linear_names(model)


def test_a_name_that_another_kind_of_module_has_too_is_written_longer():
    model = tf.AutoModelForCausalLM.from_config(
        tf.Zamba2Config(
            **{key: value for key, value in SIZES.items() if key != "head_dim"} | {"num_hidden_layers": 4},
            attention_hidden_size=32, mamba_d_state=4, num_mem_blocks=1, hybrid_layer_ids=[1, 3], layer_types=["mamba", "hybrid"] * 2, n_mamba_heads=4,
            mamba_headdim=8,
        )
    )  # fmt: skip
    names = linear_names(model)
    assert "linear" in names and "1.0" in names and not {"0", "1"} & set(names)  # as layers.0 ends
    with adapted(model, settings(adapter_layers="all")) as student:
        assert any("lora_A" in key for key, parameter in student.named_parameters() if parameter.requires_grad)


def test_what_a_fused_kernel_reads_past_its_forward_pass_is_left_out_and_named():
    config = tf.MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=2)
    with adapted(tf.AutoModelForCausalLM.from_config(config), settings(adapter_layers="all")) as student:
        assert left_out(student) == ["mixer.out_proj"]
        assert note_left_out(student).startswith("Not all of this base is reached: mixer.out_proj (")
        assert any("in_proj.lora_A" in key for key, _ in student.named_parameters())


def test_mixing_vectors_of_rwkv_are_no_experts():
    config = tf.RwkvConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16)
    with adapted(tf.AutoModelForCausalLM.from_config(config), settings()) as student:
        assert left_out(student) == [] and note_left_out(student) is None


def test_a_module_like_falcons_own_linear_is_adapted():
    config = tf.FalconConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    with adapted(tf.AutoModelForCausalLM.from_config(config), settings(adapter_layers="all")) as student:
        assert {"dense", "query_key_value"} <= {
            key.split(".lora_A")[0].rpartition(".")[2] for key, _ in student.named_parameters() if "lora_A" in key
        }
