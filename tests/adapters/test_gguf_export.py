"""An adapter as GGUF: read back, and computed as llama.cpp computes it, it gives what PEFT gives."""

import json

import gguf
import numpy
import pytest
import torch
import transformers
from click.testing import CliRunner
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import LlamaConfig
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from asu_lora.adapters.gguf_export import export_gguf
from asu_lora.adapters.gguf_names import gguf_base
from asu_lora.adapters.store import AdapterStore
from asu_lora.bases.base_config import base_config
from asu_lora.cli import main
from asu_lora.errors import AdapterError, BaseModelError, StoreError
from tests.support.lora_folders import save_lora

SMALL = dict(
    vocab_size=320,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    pad_token_id=0,
)
# (class of transformers' config, what else it needs, whether llama.cpp turns neighbouring rows)
ARCHITECTURES = {
    "llama": ("LlamaConfig", {}, True),
    "mistral": ("MistralConfig", {}, True),
    "qwen2": ("Qwen2Config", {}, False),
    "qwen3": ("Qwen3Config", {"head_dim": 16}, False),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 16}, False),
    "phi3": ("Phi3Config", {}, False),
    "gpt2": ("GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4}, False),
}


def save_base(kind: str, folder):
    """A tiny checkpoint of an architecture, random weights."""
    name, more, _ = ARCHITECTURES[kind]
    config = getattr(transformers, name)(**(({} if kind == "gpt2" else SMALL) | {"vocab_size": 320} | more))
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def adapted(request, tmp_path_factory):
    """(kind, base, store) with an adapter 'r' on every linear layer, one module with a rank and alpha of its own."""
    folder = tmp_path_factory.mktemp(request.param)
    base = save_base(request.param, folder / "base")
    more = {"fan_in_fan_out": True} if request.param == "gpt2" else {}
    pattern = {"rank_pattern": {"layers.1.*(o_proj|down_proj)": 2}, "alpha_pattern": {"layers.1.*down_proj": 5}}
    save_lora(base, folder / "store" / "r", target_modules="all-linear", use_rslora=True, **pattern, **more)
    return request.param, base, AdapterStore(folder / "store")


def read(file):
    """Metadata and factors of a GGUF file, by the gguf package's reader."""
    reader = gguf.GGUFReader(file)
    return {key: field.contents() for key, field in reader.fields.items()}, {t.name: t.data for t in reader.tensors}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_llama_cpps_sum_is_pefts_output_module_by_module(adapted, precision, tmp_path):
    kind, base, store = adapted
    said, factors = read(export_gguf(store, "r", tmp_path / "r.gguf", base_config(str(base)), precision))
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    names = gguf.get_tensor_name_map(arch_named(said["general.architecture"]), 2)
    processor, seen = LlamaTensorProcessor(), 0
    for module, layer in PeftModel.from_pretrained(model, store.root / "r").eval().named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        seen += 1
        module = module.removeprefix("base_model.model.")
        x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            wanted = layer(x).numpy().T  # (out, 5)
        weight = layer.base_layer.weight.detach().numpy()  # (out, in); gpt2's Conv1D has it the other way round
        bias = getattr(layer.base_layer, "bias", None)
        plain = (weight.T if kind == "gpt2" else weight) @ x.numpy().T
        plain = plain if bias is None else plain + bias.detach().numpy()[:, None]
        name = names.get_name(module) + ".weight"
        a, b = factors[name + ".lora_a"].astype("float32"), factors[name + ".lora_b"].astype("float32")
        delta = said["adapter.lora.alpha"] / b.shape[1] * (b @ (a @ x.numpy().T))
        if ARCHITECTURES[kind][2] and module.endswith(("q_proj", "k_proj")):
            delta = processor._reverse_permute_weights(delta, 4 if module.endswith("q_proj") else 2)
        tolerance = 2e-5 if precision == "fp32" else 5e-3
        assert numpy.abs(plain + delta - wanted).max() < tolerance * max(1, numpy.abs(wanted).max()), module
        assert numpy.abs(delta).max() > 0.02  # there is something to get wrong
    assert seen == len(factors) // 2 >= 8
    assert said["general.type"] == "adapter" and said["adapter.type"] == "lora"
    assert {factor.dtype for factor in factors.values()} == {numpy.dtype(f"float{precision[2:]}")}


def arch_named(label: str):
    return next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == label)


def test_neighbouring_rows_turned_together_give_transformers_attention():
    """llama.cpp's rotary embedding on reordered rows against transformers' on the rows as they are."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = transformers.LlamaConfig(**SMALL)
    base, d, length = gguf_base(config.to_dict()), 16, 6
    random = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, heads, length, d, generator=random) for heads in (4, 2))
    cos, sin = LlamaRotaryEmbedding(config)(q, torch.arange(length)[None])
    wanted_q, wanted_k = apply_rotary_pos_emb(q, k, cos, sin)
    angles = numpy.arange(length)[:, None] * 10000.0 ** (-numpy.arange(0, d, 2) / d)

    def turned(states, module):
        rows = states[0].permute(0, 2, 1).reshape(-1, length).numpy()  # (heads * d, length), as a weight's rows
        heads = rows[base.row_order(module, len(rows))].reshape(-1, d, length)
        even, odd = heads[:, 0::2], heads[:, 1::2]
        out = numpy.empty_like(heads)
        out[:, 0::2] = even * numpy.cos(angles).T - odd * numpy.sin(angles).T
        out[:, 1::2] = odd * numpy.cos(angles).T + even * numpy.sin(angles).T
        return out

    ours_q, ours_k = turned(q, "layers.0.self_attn.q_proj"), turned(k, "layers.0.self_attn.k_proj")
    for head in range(4):
        scores = ours_q[head].T @ ours_k[head // 2]
        assert numpy.allclose(scores, (wanted_q[0, head] @ wanted_k[0, head // 2].T).numpy(), atol=1e-4)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_base("llama", tmp_path_factory.mktemp("bases") / "llama")


def refused(store, name, config, destination, says, error=AdapterError):
    with pytest.raises(error, match=says) as caught:
        export_gguf(store, name, destination, config)
    assert "\n" not in str(caught.value)
    assert not destination.exists() and not list(destination.parent.glob(".*.gguf*"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"target_modules": ["embed_tokens"]}, "embedding model.embed_tokens"),
        ({"target_modules": ["lm_head"]}, "lm_head, which is its token embedding"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_what_llama_cpp_keeps_otherwise_is_refused_by_name(settings, says, llama, tmp_path):
    save_lora(llama, tmp_path / "store" / "r", **settings)
    config = base_config(str(llama)) | {"tie_word_embeddings": True}
    refused(AdapterStore(tmp_path / "store"), "r", config, tmp_path / "r.gguf", says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "falcon"}, "'falcon' aren't written"),
        ({"model_type": ["llama"]}, "aren't written"),
        ({"num_attention_heads": 0}, "num_attention_heads as 0"),
        ({"num_attention_heads": 5}, "another base"),
        ({"num_attention_heads": 8}, "8 heads of 16 rows have others: it belongs to another base"),
        ({"num_hidden_layers": 1}, "layers.1.self_attn.q_proj, which has no weight"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(change, says, llama, tmp_path):
    save_lora(llama, tmp_path / "store" / "r")
    store = AdapterStore(tmp_path / "store")
    refused(store, "r", base_config(str(llama)) | change, tmp_path / "r.gguf", says)


def test_numbers_beyond_fp16_are_refused_and_fp32_keeps_them(llama, tmp_path):
    save_lora(llama, tmp_path / "store" / "r", size=1e5)
    store, config = AdapterStore(tmp_path / "store"), base_config(str(llama))
    with pytest.raises(AdapterError, match="beyond fp16: export it with --precision fp32"):
        export_gguf(store, "r", tmp_path / "r.gguf", config, "fp16")
    export_gguf(store, "r", tmp_path / "r.gguf", config)
    with pytest.raises(StoreError, match="not overwritten"):
        export_gguf(store, "r", tmp_path / "r.gguf", config)


def test_the_command_reads_the_base_from_the_adapter_and_names_the_file(llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_lora(llama, tmp_path / "adapters" / "r")
    done = CliRunner().invoke(main, ["adapters", "export", "r", "--format", "gguf", "-p", "fp16"])
    assert done.exit_code == 0 and done.stdout == "r is in r.gguf.\n", done.output
    said, _ = read(tmp_path / "r.gguf")
    assert said["general.base_model.0.name"] == "llama"  # its place on this machine is nobody's business
    assert str(tmp_path) not in json.dumps(said, default=str)
    for words, says in (
        (["r", "s.gguf", "--format", "peft"], "doesn't write"),
        (["r", "there", "-p", "fp16"], "--precision is for --format gguf"),
        (["r", "s.gguf", "--base", "nowhere/at/all"], "no checkpoint folder"),
    ):
        done = CliRunner().invoke(main, ["adapters", "export", *words])
        assert done.exit_code == 2 and says in " ".join(done.stderr.split()), done.output


def test_a_base_of_the_same_sizes_and_other_heads_is_refused(llama, tmp_path):
    """Its rows of q and k would stand in another order: a file that loads, and answers nonsense."""
    save_lora(llama, tmp_path / "store" / "r")
    config = LlamaConfig(**SMALL | {"num_attention_heads": 8, "num_key_value_heads": 4})
    config.save_pretrained(tmp_path / "other")
    LlamaConfig(**SMALL).save_pretrained(tmp_path / "same")
    words = ["adapters", "export", "r", str(tmp_path / "r.gguf"), "--store", str(tmp_path / "store"), "--base"]
    done = CliRunner().invoke(main, [*words, str(tmp_path / "other")])
    assert done.exit_code == 2 and "has 8 heads and 4 of keys, and the one that r names 4 and 2" in done.stderr
    assert not (tmp_path / "r.gguf").exists()
    done = CliRunner().invoke(main, [*words, str(tmp_path / "same")])
    assert done.exit_code == 0, done.output


def test_a_config_that_nobody_knows_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-thing"}')
    with pytest.raises(BaseModelError, match="can't be read"):
        base_config(str(tmp_path))
