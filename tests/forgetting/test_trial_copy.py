"""A dry run refuses what the run refuses after a trial on the loaded base, in the same words; and nothing else."""

import pytest
import torch
import transformers as tf

from asu_lora.errors import AsuLoraError
from asu_lora.forgetting.dry_run import plan_run
from asu_lora.forgetting.forget import forget
from asu_lora.forgetting.trial_copy import refuse_untried
from asu_lora.memory_plan.planned_run import meta_model
from tests.support.tiny_base import tiny_config, tiny_tokenizer
from tests.support.tiny_run import tiny_request, tiny_settings

SIZES = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}  # fmt: skip
REFUSED = {
    "mpt": tf.MptConfig(d_model=32, n_heads=2, n_layers=2, vocab_size=320, max_seq_len=96),
    "falcon": tf.FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=320),
    "bert": tf.BertConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
                          vocab_size=320),
}  # fmt: skip
TAKEN = {
    "llama": tiny_config(),
    "gemma3": tf.Gemma3TextConfig(**SIZES, sliding_window=16),
    "gpt2": tf.GPT2Config(vocab_size=320, n_positions=128, n_embd=32, n_layer=2, n_head=2),
}


def told_by(config, folder, **changes):
    """What the dry run says of a base, and what the run says of it; None where nothing is refused."""
    torch.manual_seed(0)
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    settings = tiny_settings(epochs=1, target_modules="all-linear", **changes)
    said = []
    for use in (plan_run, forget):
        try:
            use(tiny_request(1, 1), str(folder / "base"), settings, name="a", store=folder / "store")
            said.append(None)
        except AsuLoraError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_run_refuses_the_dry_run_refuses_in_the_same_words(name, tmp_path):
    dry, run = told_by(REFUSED[name], tmp_path)
    assert dry == run and run is not None


@pytest.mark.parametrize("name", TAKEN)
def test_what_the_run_takes_the_dry_run_takes(name, tmp_path):
    assert told_by(TAKEN[name], tmp_path) == [None, None]


def test_without_a_teacher_attention_is_nobodys_concern(tmp_path):
    assert told_by(REFUSED["falcon"], tmp_path, objective="ga", retain_loss="gd") == [None, None]


def test_a_large_base_is_tried_in_a_small_copy_and_one_too_large_is_not_tried(monkeypatch):
    config = tf.LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                            num_key_value_heads=8, vocab_size=128256)  # fmt: skip
    built = []
    real = tf.AutoModelForCausalLM.from_config

    def counted(*args, **kwargs):
        built.append(real(*args, **kwargs))
        return built[-1]

    model = meta_model(config, torch.bfloat16)
    monkeypatch.setattr(tf.AutoModelForCausalLM, "from_config", counted)
    refuse_untried(model, config, None)
    sizes = [sum(p.numel() for p in each.parameters()) for each in built]
    assert len(built) == 2 and sizes[0] == sizes[1] < 50_000_000 and next(built[0].parameters()).is_meta
    monkeypatch.setattr("asu_lora.forgetting.trial_copy.MOST_PARAMETERS", 1_000_000)
    refuse_untried(model, config, None)
    assert len(built) == 3
