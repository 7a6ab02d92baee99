"""Mixtures of experts: an adapter as this program places it is merged into checkpoints whose experts transformers
fuses on loading, and the experts themselves stay as they are."""

import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config, GptOssConfig, MixtralConfig, Qwen3MoeConfig

from asu_lora.merging.merge import merge
from asu_lora.training.target_modules import target_modules
from tests.support.lora_folders import in_fp32, logits_of, nf4, relative, save_lora, stacked, tensors_of

SMALL = dict(
    vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=None,
    eos_token_id=1, pad_token_id=0,
)  # fmt: skip
CONFIGS = {
    "mixtral": lambda: MixtralConfig(num_local_experts=4, **SMALL),
    "qwen3_moe": lambda: Qwen3MoeConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, **SMALL),
    "gpt_oss": lambda: GptOssConfig(num_local_experts=4, num_experts_per_tok=2, head_dim=16, **SMALL),
    "deepseek_v3": lambda: DeepseekV3Config(
        n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, first_k_dense_replace=1,
        moe_intermediate_size=32, kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=16,
        **SMALL | {"num_key_value_heads": 4},
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=CONFIGS)
def base(request, tmp_path_factory):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.1)
    folder = tmp_path_factory.mktemp("bases") / request.param
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lora(base, tmp_path_factory):
    """On every linear layer that `--target-modules all-linear` takes."""
    chosen = target_modules(AutoModelForCausalLM.from_pretrained(base), "all-linear")
    return save_lora(base, tmp_path_factory.mktemp("loras") / base.name, target_modules=chosen.names)


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_merged_mixture_answers_as_base_and_adapter(base, lora, weight, tmp_path):
    merge(base, [(lora, weight)], tmp_path / "out", "fp32")
    wanted = logits_of(stacked(base, [(lora, weight)]))
    assert relative(logits_of(tmp_path / "out"), wanted) < 1e-5
    assert relative(logits_of(base), wanted) > 0.01  # it does change something


def test_the_experts_stay_as_they_are(base, lora, tmp_path):
    merge(base, [(lora, 1.0)], tmp_path / "out", "fp32")
    before, after = tensors_of(base), tensors_of(tmp_path / "out")
    assert before.keys() == after.keys()
    experts = [name for name in before if "experts" in name and "shared" not in name]
    assert len(experts) >= 2
    assert all(torch.equal(before[name], after[name]) for name in experts)


def test_a_merge_to_4_bit_loads_and_quantises_what_loading_would(base, lora, tmp_path):
    """Experts are no linear layers: loading leaves them whole, and so does the merge."""
    merge(base, [(lora, 1.0)], tmp_path / "out", "nf4")
    merge(base, [(lora, 1.0)], tmp_path / "full", "fp32")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "full", quantization_config=nf4(), dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert relative(logits_of(in_fp32(merged)), logits_of(in_fp32(loaded))) < 1e-4
