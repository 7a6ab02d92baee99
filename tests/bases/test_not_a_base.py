"""Folders that are given for a base and are something else, or lack something: said by name."""

import pytest
from transformers import AutoTokenizer, ModernBertDecoderConfig, ModernBertDecoderForCausalLM

from asu_lora.bases.checkpoint_files import SINGLE_NAME, read_checkpoint
from asu_lora.bases.source import resolve_base
from asu_lora.errors import BaseModelError
from asu_lora.forgetting.dry_run import planned_run
from asu_lora.forgetting.forget import forget
from asu_lora.models.loading import load_base, load_tokenizer
from tests.support.checkpoint_copies import copy, rewrite_json
from tests.support.lora_folders import save_lora
from tests.support.tiny_run import tiny_request, tiny_settings


def test_an_adapter_is_said_to_be_one(tiny_base, tmp_path):
    with pytest.raises(BaseModelError, match="it is an adapter, so name it with --adapter and its base with --base"):
        resolve_base(str(save_lora(tiny_base, tmp_path / "a")))


def test_a_trainers_folder_names_the_checkpoint_in_it(tiny_base, tmp_path):
    (tmp_path / "out").mkdir()
    copy(tiny_base, tmp_path / "out" / "checkpoint-7")
    with pytest.raises(BaseModelError, match=r"the checkpoint in it is \S+out/checkpoint-7\.$"):
        resolve_base(str(tmp_path / "out"))


def test_weights_that_were_never_fetched_from_git_lfs_are_said_to_be_so(tiny_base, tmp_path):
    base = copy(tiny_base, tmp_path / "base")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (base / SINGLE_NAME).write_text(pointer)
    with pytest.raises(BaseModelError, match="model.safetensors is a pointer of Git LFS .* 'git lfs pull'"):
        read_checkpoint(base)


def test_a_base_without_a_tokenizer_is_said_to_have_none(tiny_base, tmp_path):
    base = copy(tiny_base, tmp_path / "base")
    for file in base.glob("token*"):
        file.unlink()
    with pytest.raises(BaseModelError, match=r"holds no tokenizer: put its files .* beside the weights\.$"):
        load_tokenizer(resolve_base(str(base)))
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(base)
    assert len(load_tokenizer(resolve_base(str(base)))) > 256


def test_a_config_that_tells_another_vocabulary_names_the_tensor_that_contradicts_it(tiny_base, tmp_path):
    base = copy(tiny_base, tmp_path / "base")
    rewrite_json(base / "config.json", lambda config: config.update(vocab_size=300))
    with pytest.raises(BaseModelError, match=r"damaged: model.embed_tokens.weight has the shape \[320, 64\], .*300"):
        load_base(str(base), "fp32", "cpu")


@pytest.mark.parametrize("use", [planned_run, forget], ids=["dry run", "run"])
def test_a_base_with_a_head_of_its_own_before_the_output_layer_is_refused_in_a_clear_sentence(use, tiny_base, tmp_path):
    tokenizer, ids = AutoTokenizer.from_pretrained(tiny_base), ("pad", "bos", "eos", "cls", "sep")
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    config = ModernBertDecoderConfig(**sizes, num_attention_heads=4, **{f"{name}_token_id": 0 for name in ids})
    ModernBertDecoderForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    more = {"store": tmp_path / "store"} if use is forget else {}
    with pytest.raises(BaseModelError, match="between its layers and its output layer stands a head of its own"):
        use(tiny_request(1, 1), str(tmp_path / "base"), tiny_settings(epochs=1), **more)
