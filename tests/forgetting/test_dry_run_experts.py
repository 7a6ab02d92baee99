"""A mixture of experts: which weights get no adapter is said before anything is computed, by a dry run as by the run."""

import pytest
import transformers as tf

from asu_lora.errors import TrainingError
from asu_lora.forgetting.dry_run import plan_run
from asu_lora.forgetting.forget import forget
from tests.support.listener import Listener
from tests.support.tiny_base import tiny_tokenizer
from tests.support.tiny_run import tiny_request, tiny_settings

SIZES = {"vocab_size": 320, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip
BASES = {
    "mixtral": tf.MixtralConfig(**SIZES, num_local_experts=4),
    "qwen3_moe": tf.Qwen3MoeConfig(**SIZES, head_dim=8, moe_intermediate_size=8, num_experts=4, num_experts_per_tok=2),
    "gpt_oss": tf.GptOssConfig(**SIZES, head_dim=8, num_local_experts=4, num_experts_per_tok=2),
    "deepseek_v3": tf.DeepseekV3Config(
        **SIZES, moe_intermediate_size=8, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
        first_k_dense_replace=1, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4,
    ),
}  # fmt: skip


class Notes(Listener):
    """What is said until the first answers are asked for, where it stops."""

    def __init__(self):
        super().__init__(stop_stage="Answers")
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.mark.parametrize("name", BASES)
def test_what_gets_no_adapter_is_said_before_anything_is_computed(name, tmp_path):
    tf.AutoModelForCausalLM.from_config(BASES[name]).save_pretrained(tmp_path / name)
    tiny_tokenizer().save_pretrained(tmp_path / name)
    request, settings = tiny_request(1, 1), tiny_settings(eval_rows=1, keep_off=0.5, settle_rounded=0.25)
    told, _ = plan_run(request, str(tmp_path / name), settings, name="a", store=tmp_path / "store")
    assert "mixture of experts" in told["notes"] and "experts.down_proj" in told["notes"]
    heard = Notes()
    with pytest.raises((KeyboardInterrupt, TrainingError)):
        forget(request, str(tmp_path / name), settings, name="a", store=tmp_path / "store", progress=heard)
    [said] = [note for note in heard.notes if "mixture of experts" in note]
    assert said in told["notes"]
