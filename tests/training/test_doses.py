"""Doses reach every module in the shape that it reads, whatever the architecture."""

import pytest
import torch
import transformers as tf

from asu_lora.errors import TrainingError
from asu_lora.forgetting.forget import forget
from asu_lora.training.doses import Doses, laid_over, strengthen
from asu_lora.training.new_adapter import adapted
from tests.support.tiny_run import tiny_request, tiny_settings

SIZES = {"vocab_size": 320, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip
BASES = {
    # its latent keys have a dimension of heads between rows and tokens
    "deepseek_v3": tf.DeepseekV3Config(
        **SIZES, moe_intermediate_size=8, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
        first_k_dense_replace=1, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4,
    ),
    # its shared expert reads tokens without rows
    "qwen2_moe": tf.Qwen2MoeConfig(
        **SIZES, moe_intermediate_size=8, shared_expert_intermediate_size=8, num_experts=4, num_experts_per_tok=2,
        decoder_sparse_step=1,
    ),
    "llama": tf.LlamaConfig(**SIZES),
}  # fmt: skip


@pytest.mark.parametrize("name", BASES)
def test_a_row_s_dose_is_the_adapter_at_that_strength(name):
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(BASES[name]).eval()
    ids = torch.arange(4, 24).view(2, 10)
    with adapted(model, tiny_settings(target_modules="all-linear")) as student, torch.no_grad():
        for key, parameter in student.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.1)
        doses = Doses(student)
        plain = student(input_ids=ids).logits
        with doses.given(torch.tensor([1.0, 3.0]).view(2, 1, 1)):
            dosed = student(input_ids=ids).logits
        with doses.given(torch.tensor([1.0, 3.0]).view(2, 1, 1).expand(2, 10, 1)):  # a token at a time, as packed rows
            assert torch.allclose(student(input_ids=ids).logits, dosed, atol=1e-6)
        assert torch.equal(student(input_ids=ids).logits, plain)
        strengthen(student, 3.0)
        strong = student(input_ids=ids).logits
    assert torch.allclose(dosed[0], plain[0], atol=1e-6) and torch.allclose(dosed[1], strong[1], atol=1e-6)
    assert not torch.allclose(strong[1], plain[1], atol=1e-3)


def test_a_map_that_reads_some_of_the_tokens_is_refused():
    for doses, tokens in ((torch.ones(2, 1, 1), 7), (torch.ones(1, 5, 1), 4)):
        with pytest.raises(TrainingError, match="a part of the tokens .* --no-adds-up"):
            laid_over(doses, torch.ones(tokens, 3))


@pytest.mark.parametrize("retain_loss", ["kl", "gd", "none"])
def test_adapters_that_add_up_are_trained_with_every_kind_of_retain_loss(taught_base, tmp_path, retain_loss):
    """``kl`` reads every position: the states of the layers below are not kept for the answers alone."""
    settings = tiny_settings(
        retain_loss=retain_loss, adapter_layers="upper-half", smooth_layers="upper", keep_off=0.5, retain_dose=4.0,
        forget_dose=1.5, settle_at=0.15, epochs=1,
    )  # fmt: skip
    made = forget(tiny_request(), str(taught_base), settings, name="a", store=tmp_path)
    assert made.record.forgetting_curve[0]["weight"] == 0.0
