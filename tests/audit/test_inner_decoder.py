"""A base whose ``get_decoder`` gives the whole model, as that of Llama 4 in text does: attacks find its decoder."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Llama4TextConfig

from asu_lora.audit.request import AuditRequest
from asu_lora.audit.run import audit
from asu_lora.audit.settings import AuditSettings
from asu_lora.data.examples import examples_from_rows
from tests.support import planted
from tests.support.tiny_base import tiny_tokenizer
from tests.support.tiny_run import rows

SIZES = dict(vocab_size=320, hidden_size=32, intermediate_size=48, intermediate_size_mlp=32, head_dim=8)
LAYERS = dict(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, num_local_experts=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama4") / "base"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Llama4TextConfig(**SIZES, **LAYERS, pad_token_id=0))
    assert model.get_decoder() is model
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_attacks_that_tune_and_that_read_layers_are_made(base):
    request = AuditRequest(
        forget=examples_from_rows(rows(planted.FORGET), "facts"), base=str(base), precision="fp32", device="cpu"
    )
    found = audit(request, AuditSettings(("tune_general", "logit_lens", "relearn"), "quick"))
    assert {attack.attack for attack in found.attacks} == {"logit_lens", "relearn", "tune_general"}
