"""Attention smoothing against an independent reading of the formula: the softmax, given logits / tau."""

import contextlib
import copy
import gc
import math
import weakref

import pytest
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from transformers.models.llama import modeling_llama

from asu_lora.errors import SettingError, SmoothingError
from asu_lora.smoothing import attention_smoothing, number_of_layers, smoothable_layers

LLAMA_LIKE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
NO_GROUPS = {key: value for key, value in LLAMA_LIKE.items() if key != "num_key_value_heads"}
GPT_LIKE = {"vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
MLA = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
SLIDING = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 4}

# name -> (configuration, where the layers are)
ARCHITECTURES = {
    "llama": (tf.LlamaConfig(**LLAMA_LIKE), "model.layers"),
    "mistral": (tf.MistralConfig(**LLAMA_LIKE, sliding_window=4), "model.layers"),
    "qwen2": (tf.Qwen2Config(**LLAMA_LIKE), "model.layers"),
    "qwen3": (tf.Qwen3Config(**LLAMA_LIKE, head_dim=8), "model.layers"),
    "gemma": (tf.GemmaConfig(**LLAMA_LIKE, head_dim=8), "model.layers"),
    # A cap so low that capping is far from linear.
    "gemma2": (
        tf.Gemma2Config(**LLAMA_LIKE, head_dim=8, attn_logit_softcapping=2.0, **SLIDING),
        "model.layers",
    ),
    "gemma3": (tf.Gemma3TextConfig(**LLAMA_LIKE, head_dim=8, **SLIDING), "model.layers"),
    "phi": (tf.PhiConfig(**NO_GROUPS), "model.layers"),
    "phi3": (tf.Phi3Config(**LLAMA_LIKE), "model.layers"),
    "olmo": (tf.OlmoConfig(**LLAMA_LIKE), "model.layers"),
    "olmo2": (tf.Olmo2Config(**LLAMA_LIKE), "model.layers"),
    "gpt_neox": (tf.GPTNeoXConfig(**NO_GROUPS), "gpt_neox.layers"),
    "gpt2": (tf.GPT2Config(**GPT_LIKE), "transformer.h"),
    "gpt2 with layer scales": (
        tf.GPT2Config(**GPT_LIKE, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True),
        "transformer.h",
    ),
    "gpt2 unscaled": (tf.GPT2Config(**GPT_LIKE, scale_attn_weights=False), "transformer.h"),
    "gpt_bigcode": (tf.GPTBigCodeConfig(**GPT_LIKE), "transformer.h"),
    "gptj": (tf.GPTJConfig(**GPT_LIKE, rotary_dim=4), "transformer.h"),
    "codegen": (tf.CodeGenConfig(**GPT_LIKE, rotary_dim=4), "transformer.h"),
    "opt": (tf.OPTConfig(**NO_GROUPS, ffn_dim=48, word_embed_proj_dim=32), "model.decoder.layers"),
    "bloom": (tf.BloomConfig(vocab_size=97, hidden_size=32, n_layer=3, n_head=4), "transformer.h"),
    "granite": (tf.GraniteConfig(**LLAMA_LIKE, attention_multiplier=0.1), "model.layers"),
    "cohere": (tf.CohereConfig(**LLAMA_LIKE), "model.layers"),
    "starcoder2": (tf.Starcoder2Config(**LLAMA_LIKE), "model.layers"),
    "stablelm": (tf.StableLmConfig(**LLAMA_LIKE), "model.layers"),
    "smollm3": (tf.SmolLM3Config(**LLAMA_LIKE), "model.layers"),
    "mixtral": (tf.MixtralConfig(**LLAMA_LIKE, **MOE), "model.layers"),
    "deepseek_v3": (
        tf.DeepseekV3Config(
            **LLAMA_LIKE | {"num_key_value_heads": 4}, **MLA, n_routed_experts=4, num_experts_per_tok=2,
            n_group=1, topk_group=1, first_k_dense_replace=1, moe_intermediate_size=16,
        ),
        "model.layers",
    ),
    "gpt_oss": (tf.GptOssConfig(**LLAMA_LIKE, head_dim=8, **MOE, **SLIDING), "model.layers"),
}  # fmt: skip
IDS = torch.tensor(
    [[5, 17, 88, 3, 41, 60, 22, 9, 71, 30, 12, 95], [6, 2, 44, 44, 8, 90, 13, 27, 50, 1, 33, 7]]
)


def randomise(model: nn.Module, deviation: float = 0.3) -> nn.Module:
    """Weights large enough for attention to be far from uniform, sinks included."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or "sinks" in name:
                parameter.normal_(0, deviation, generator=generator)
    return model.eval()


def build(config: tf.PretrainedConfig, attention: str = "eager") -> nn.Module:
    return randomise(
        tf.AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=attention)
    )


def llama(attention: str = "eager") -> nn.Module:
    return build(ARCHITECTURES["llama"][0], attention)


def logits(model: nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


@contextlib.contextmanager
def softmax_of_divided_logits(monkeypatch, layers, tau):
    """F.softmax(x) becomes F.softmax(x / tau) while one of the layers runs. Attention logits are 4-D,
    those of expert routers are not."""
    running, softmax = [], torch.nn.functional.softmax
    hooks = []
    for layer in layers:
        hooks.append(layer.register_forward_pre_hook(lambda *_: running.append(1)))
        hooks.append(layer.register_forward_hook(lambda *_: running.clear()))
    with monkeypatch.context() as patch:
        patch.setattr(
            torch.nn.functional,
            "softmax",
            lambda x, *a, **k: softmax(x / tau if running and x.dim() == 4 else x, *a, **k),
        )
        yield
    for hook in hooks:
        hook.remove()


def snapshot(model: nn.Module) -> list[tuple]:
    """Every attribute, parameter, buffer and hook of every module, by identity."""
    return [
        (name, key, holder, id(value))
        for name, module in model.named_modules()
        for holder in ("__dict__", "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks")
        for key, value in (vars(module) if holder == "__dict__" else getattr(module, holder)).items()
    ]


# --- what smoothing computes ------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [None, [1], [0, 2]], ids=["all", "layer 1", "layers 0,2"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_the_softmax_of_divided_logits(name, layers, monkeypatch):
    config, path = ARCHITECTURES[name]
    model = build(config)
    stack = model.get_submodule(path)
    assert number_of_layers(model) == len(stack) == 3
    assert smoothable_layers(model) == [0, 1, 2]
    plain = logits(model)
    with softmax_of_divided_logits(monkeypatch, [stack[i] for i in layers or range(3)], 2.3):
        expected = logits(model)
    with attention_smoothing(model, 2.3, layers):
        smoothed = logits(model)
    size = (expected - plain).abs().max()
    assert size > 0.02  # the comparison below can tell smoothed from plain
    torch.testing.assert_close(smoothed, expected, atol=1e-4 * max(1, float(size)), rtol=1e-4)
    assert torch.equal(logits(model), plain)


# Of the others transformers has no SDPA attention, or one that drops the soft cap.
WITHOUT_SDPA = {"gemma2", "gpt_oss", "gptj", "codegen", "bloom"}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - WITHOUT_SDPA))
def test_eager_and_sdpa_agree(name):
    model = build(ARCHITECTURES[name][0])
    with attention_smoothing(model, 3, [0, 1]):
        eager = logits(model)
    model.set_attn_implementation("sdpa")
    with attention_smoothing(model, 3, [0, 1]):
        sdpa = logits(model)
    torch.testing.assert_close(sdpa, eager, atol=2e-4, rtol=1e-4)


def test_one_hot_attention_becomes_the_uniform_one_when_tau_is_huge():
    model = llama()
    with attention_smoothing(model, 1e9), torch.no_grad():
        weights = model(IDS, output_attentions=True).attentions
    uniform = torch.ones(12, 12).tril() / torch.arange(1, 13)[:, None]
    for layer in weights:
        torch.testing.assert_close(layer, uniform.expand_as(layer), atol=1e-6, rtol=0)


def test_sinks_are_smoothed_and_come_back_as_the_same_parameter():
    model = build(ARCHITECTURES["gpt_oss"][0])
    attention = model.model.layers[1].self_attn
    sinks = attention.sinks
    with attention_smoothing(model, 4.0, [1]):
        assert torch.equal(attention.sinks, sinks / 4)
    assert attention.sinks is sinks and isinstance(sinks, nn.Parameter)


def test_tau_one_is_no_operation_even_where_nothing_can_be_smoothed():
    model = build(MPT)
    before = snapshot(model)
    with attention_smoothing(model, 1):
        assert snapshot(model) == before


def test_nested_blocks_multiply():
    model = llama()
    with attention_smoothing(model, 6.0, [0]):
        expected = logits(model)
    with attention_smoothing(model, 3.0, [0]), attention_smoothing(model, 2.0, [0]):
        torch.testing.assert_close(logits(model), expected)
    with attention_smoothing(model, 3.0, [0, 0]), attention_smoothing(model, 2.0, iter([0])):
        torch.testing.assert_close(logits(model), expected)


def test_attention_that_layers_share_is_smoothed_once(monkeypatch):
    model = llama()
    model.model.layers[2].self_attn = model.model.layers[0].self_attn
    with softmax_of_divided_logits(monkeypatch, model.model.layers, 2.3):
        expected = logits(model)
    with attention_smoothing(model, 2.3):
        torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)


def test_only_the_text_decoder_of_a_multimodal_model_is_smoothed(monkeypatch):
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 8, "patch_size": 4}  # fmt: skip
    config = tf.Gemma3Config(
        text_config=dict(LLAMA_LIKE, head_dim=8, **SLIDING, attn_logit_softcapping=None),
        vision_config=dict(vision, vision_use_head=False),
        mm_tokens_per_image=4,
        image_token_id=90, boi_token_id=91, eoi_token_id=92,
    )  # fmt: skip
    model = randomise(tf.Gemma3ForConditionalGeneration._from_config(config, attn_implementation="eager"))
    assert number_of_layers(model) == 3
    tower = snapshot(model.model.vision_tower)
    ids = IDS % 80
    with softmax_of_divided_logits(monkeypatch, model.model.language_model.layers, 2.0):
        expected = logits(model, ids)
    with attention_smoothing(model, 2.0):
        assert snapshot(model.model.vision_tower) == tower
        torch.testing.assert_close(logits(model, ids), expected, atol=1e-4, rtol=1e-4)
    assert (logits(model, ids) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("layers", [None, [1, 2]])
def test_teacher_logits_of_the_authors_code(shared, attention, layers):
    folder = shared / "oracle"
    batches = load_file(folder / "batches.safetensors")
    figure = "teacher_logits.tau={}" + (".layers=1,2" if layers else "")
    model = tf.AutoModelForCausalLM.from_pretrained(folder / "base", attn_implementation=attention).eval()
    visible = batches["forget.attention_mask"].bool()

    def teacher(tau):
        with torch.no_grad(), attention_smoothing(model, tau, layers):
            return model(batches["forget.input_ids"], attention_mask=batches["forget.attention_mask"]).logits

    for tau in (1.0, 2.3):
        expected = batches[figure.format(tau)]
        torch.testing.assert_close(teacher(tau)[visible], expected[visible], atol=1e-4, rtol=0)
    assert (teacher(2.3) - teacher(1.0))[visible].abs().max() > 1e-2


# --- what it leaves behind --------------------------------------------------------------------------------

RESTORED = (
    build(ARCHITECTURES["gemma2"][0]),
    build(ARCHITECTURES["gpt_oss"][0]),
    build(ARCHITECTURES["gptj"][0]),
)


@settings(max_examples=40, deadline=None)
@given(
    model=st.sampled_from(RESTORED),
    tau=st.floats(1, 1e6),
    layers=st.none() | st.lists(st.integers(0, 2), min_size=1, max_size=4),
    fails=st.booleans(),
)
def test_everything_is_the_same_object_afterwards(model, tau, layers, fails):
    smoothable_layers(model)
    before = snapshot(model)
    with contextlib.suppress(ZeroDivisionError), attention_smoothing(model, tau, layers):
        assert tau == 1 or snapshot(model) != before
        with attention_smoothing(model, 2.0):
            assert snapshot(model) != before
            _ = 1 / 0 if fails else 1
    assert snapshot(model) == before


def test_the_trial_is_not_noticed():
    config = tf.LlamaConfig(**LLAMA_LIKE, attention_dropout=0.5)
    model = build(config, "sdpa")
    model.model.layers[0].mlp = Jittering(model.config)
    randomise(model).train()
    model.model.layers[1].eval()  # a mixture of modes has to come back
    modes = [module.training for module in model.modules()]
    before, random_state = snapshot(model), torch.get_rng_state()
    assert smoothable_layers(model) == [0, 1, 2]
    assert snapshot(model) == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == modes
    assert model.config._attn_implementation == "sdpa"
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_trial_runs_once_a_model_and_implementation_and_keeps_no_model_alive():
    model, runs = llama(), []
    model.model.embed_tokens.register_forward_hook(lambda *_: runs.append(1))
    for _ in range(3):
        with attention_smoothing(model, 2.0):
            pass
    assert len(runs) == 1
    model.set_attn_implementation("sdpa")
    assert smoothable_layers(model) == [0, 1, 2]
    assert len(runs) == 2
    alive = weakref.ref(model.model)
    del model
    gc.collect()
    assert alive() is None


# --- models in other clothes ------------------------------------------------------------------------------


def test_peft_model_with_its_adapter_off_is_the_smoothed_base():
    from peft import LoraConfig, get_peft_model

    base = llama()
    with attention_smoothing(base, 2.3, [1, 2]):
        expected = logits(base)
    targets = ["q_proj", "k_proj", "o_proj", "down_proj"]
    config = LoraConfig(
        r=4, target_modules=targets, lora_dropout=0.5, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    student = get_peft_model(base, config).train()
    scalings = {name: dict(m.scaling) for name, m in student.named_modules() if hasattr(m, "lora_A")}
    assert len(scalings) == 12 and number_of_layers(student) == 3
    with student.disable_adapter(), attention_smoothing(student, 2.3, [1, 2]):
        assert scalings == {name: m.scaling for name, m in student.named_modules() if hasattr(m, "lora_A")}
        torch.testing.assert_close(logits(student), expected)
    student.eval()
    with attention_smoothing(student, 2.3, [1, 2]):
        assert (logits(student) - expected).abs().max() > 1e-2


@pytest.mark.filterwarnings("ignore")
def test_nf4_model_on_the_cpu(tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    wide = LLAMA_LIKE | {"hidden_size": 64, "intermediate_size": 64}
    build(tf.LlamaConfig(**wide)).save_pretrained(tmp_path)
    nf4 = tf.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = tf.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=nf4, device_map="cpu", attn_implementation="eager", dtype=torch.bfloat16
    )
    assert type(model.model.layers[0].self_attn.q_proj).__name__ == "Linear4bit"
    plain = logits(model)
    with softmax_of_divided_logits(monkeypatch, model.model.layers, 4.0):
        expected = logits(model)
    with attention_smoothing(model, 4.0):
        smoothed = logits(model)
    # A power of two is exact in bfloat16, up to the place where the division happens.
    assert (smoothed - expected).abs().max() < 0.1 * (plain - expected).abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("deviation", [1e-3, 1.0])
def test_the_trial_sees_through_any_dtype_and_size_of_weights(dtype, deviation):
    config = tf.LlamaConfig(**LLAMA_LIKE)
    for attention in ("eager", "sdpa"):
        model = tf.LlamaForCausalLM._from_config(copy.deepcopy(config), attn_implementation=attention)
        assert smoothable_layers(randomise(model, deviation).to(dtype)) == [0, 1, 2]
        assert smoothable_layers(randomise(with_attention(model, Deaf, 1), deviation).to(dtype)) == [0, 2]


def test_meta_models_are_judged_by_their_structure():
    with torch.device("meta"):
        model = tf.LlamaForCausalLM(tf.LlamaConfig(**LLAMA_LIKE))
        jamba = tf.AutoModelForCausalLM.from_config(JAMBA)
    scale = model.model.layers[0].self_attn.scaling
    with attention_smoothing(model, 2.0):
        assert model.model.layers[0].self_attn.scaling == scale / 2
    assert smoothable_layers(jamba) == [1]


# --- what is refused --------------------------------------------------------------------------------------


class Deaf(modeling_llama.LlamaAttention):
    """Holds a scale that its forward ignores."""

    def forward(self, *args, **kwargs):
        held, vars(self)["scaling"] = vars(self)["scaling"], self.head_dim**-0.5
        try:
            return super().forward(*args, **kwargs)
        finally:
            vars(self)["scaling"] = held


class Biased(modeling_llama.LlamaAttention):
    """Adds a position bias to its logits, as ALiBi and T5 do, where the scale does not reach."""

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, **kwargs):
        tokens = hidden_states.shape[1]
        distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
        mask = torch.zeros(tokens, tokens).masked_fill(distance < 0, -torch.inf) - 0.1 * distance.relu()
        return super().forward(
            hidden_states, position_embeddings, mask[None, None].to(hidden_states), **kwargs
        )


class Convolving(modeling_llama.LlamaMLP):
    """A feed-forward part that also looks at the token before."""

    def forward(self, x):
        return super().forward(x + 0.5 * torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1])


class Jittering(modeling_llama.LlamaMLP):
    """Draws random numbers whatever the mode, as the routers of some experts do."""

    def forward(self, x):
        return super().forward(x * (1 + 1e-6 * torch.rand_like(x)))


def with_attention(model: nn.Module, kind: type, index: int) -> nn.Module:
    model.model.layers[index].self_attn = kind(model.config, index)
    return randomise(model)


MPT = tf.MptConfig(vocab_size=97, d_model=32, n_heads=4, n_layers=3, max_seq_len=64)
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2}
JAMBA = tf.JambaConfig(
    **LLAMA_LIKE, attn_layer_period=3, attn_layer_offset=1, num_experts=2, use_mamba_kernels=False,
    mamba_d_state=8, mamba_dt_rank=4,
)  # fmt: skip
BAMBA = tf.BambaConfig(**LLAMA_LIKE, attn_layer_indices=[2], **MAMBA)
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
QWEN3_NEXT = tf.Qwen3NextConfig(
    **LLAMA_LIKE, head_dim=8, **LINEAR, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
    shared_expert_intermediate_size=16, layer_types=["full_attention", "linear_attention", "full_attention"],
)  # fmt: skip
FALCON = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
GPT_NEO = tf.GPTNeoConfig(
    vocab_size=97, hidden_size=32, num_layers=3, num_heads=4, attention_types=[[["global"], 3]], window_size=4
)


@pytest.mark.parametrize(
    "config, able, words",
    [
        (
            JAMBA,
            [1],
            "JambaForCausalLM can't be smoothed in layer 0 (JambaMambaDecoderLayer): it has no softmax",
        ),
        (BAMBA, [2], "BambaForCausalLM can't be smoothed in layer 0 (BambaDecoderLayer): it has no softmax"),
        (
            QWEN3_NEXT,
            [0, 2],
            "Qwen3NextForCausalLM can't be smoothed in layer 1 (Qwen3NextDecoderLayer): it has no",
        ),
        (
            tf.FalconH1Config(**LLAMA_LIKE, mamba_d_ssm=64, **MAMBA),
            [],
            "tokens meet outside softmax attention too",
        ),
        (
            tf.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=3),
            [],
            "it has no softmax attention",
        ),
        (
            MPT,
            [],
            "MptForCausalLM can't be smoothed in layer 0 (MptBlock): dividing the scale of its MptAttention",
        ),
        (
            tf.FalconConfig(**FALCON),
            [],
            "FalconForCausalLM can't be smoothed in layer 0 (FalconDecoderLayer)",
        ),
        (
            GPT_NEO,
            [],
            "GPTNeoForCausalLM can't be smoothed in layer 0 (GPTNeoBlock): it has no softmax attention",
        ),
        (
            tf.GPT2Config(**GPT_LIKE, add_cross_attention=True),
            [],
            "its GPT2Attention took no part in a trial run",
        ),
    ],
    ids=lambda value: value.model_type if isinstance(value, tf.PretrainedConfig) else None,
)
def test_architectures_refused_by_name(config, able, words):
    model = build(config)
    assert smoothable_layers(model) == able
    before = snapshot(model)
    with pytest.raises(SmoothingError) as refusal, attention_smoothing(model, 2.0):
        pytest.fail("ran unsmoothed")
    assert words in str(refusal.value) and "\n" not in str(refusal.value)
    assert (f"layers {able} can be" if able else "choose another base") in str(refusal.value)
    assert snapshot(model) == before


@pytest.mark.parametrize("config", [JAMBA, BAMBA, QWEN3_NEXT], ids=["jamba", "bamba", "qwen3_next"])
def test_hybrids_are_smoothed_in_their_attention_layers(config, monkeypatch):
    model = build(config)
    able = smoothable_layers(model)
    with softmax_of_divided_logits(monkeypatch, [model.model.layers[index] for index in able], 3.0):
        expected = logits(model)
    plain = logits(model)
    with attention_smoothing(model, 3.0, able):
        torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
    assert (plain - expected).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", [Deaf, Biased])
def test_attention_that_the_scale_does_not_rule_is_refused(kind, attention):
    model = with_attention(llama(attention), kind, 2)
    assert smoothable_layers(model) == [0, 1]
    with attention_smoothing(model, 2.0, [0, 1]):
        pass
    with pytest.raises(
        SmoothingError, match=rf"LlamaForCausalLM .* layer 2 .*its {kind.__name__} leaves something"
    ):
        attention_smoothing(model, 2.0, [1, 2]).__enter__()


def test_an_unknown_sink_is_refused():
    model = build(ARCHITECTURES["gpt_oss"][0])
    attention = model.model.layers[1].self_attn
    sinks = attention._parameters.pop("sinks")
    vars(attention)["sinks"] = sinks.data  # where smoothing does not look for it
    assert smoothable_layers(model) == [0, 2]


def test_another_token_mixer_beside_the_attention_is_refused():
    model = llama()
    model.model.layers[0].mlp = Convolving(model.config)
    assert smoothable_layers(randomise(model)) == [1, 2]


def test_zero_outputs_hide_nothing():
    model = with_attention(llama(), Deaf, 0)
    for layer in model.model.layers[:2]:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.self_attn.v_proj.weight)
    assert smoothable_layers(model) == [1, 2]


def test_a_verdict_on_logits_of_zero_is_not_remembered():
    model = with_attention(llama(), Deaf, 0)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    nn.init.zeros_(model.model.layers[0].self_attn.q_proj.weight)
    assert smoothable_layers(model) == [0, 1, 2]  # uniform attention is its own smoothing
    model.load_state_dict(weights)
    assert smoothable_layers(model) == [1, 2]


def test_a_module_swapped_after_the_trial_is_tried_again():
    model = llama()
    assert smoothable_layers(model) == [0, 1, 2]
    assert smoothable_layers(with_attention(model, Deaf, 1)) == [0, 2]


def test_an_attention_kernel_that_ignores_the_scale_is_refused():
    def kernel(heeds):
        def attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
            scale = scaling if heeds else None
            key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
            out = torch._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, 0.0, True, scale=scale
            )[0]
            return out.transpose(1, 2), None

        return attention

    for name, heeds in (("scaled_kernel", True), ("fixed_kernel", False)):
        tf.AttentionInterface.register(name, kernel(heeds))
    try:
        model = llama()
        with attention_smoothing(model, 2.0):
            expected = logits(model)
        model.set_attn_implementation("scaled_kernel")
        with attention_smoothing(model, 2.0):
            torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
        model.set_attn_implementation("fixed_kernel")
        with pytest.raises(
            SmoothingError, match="with fixed_kernel attention its LlamaAttention ignores the scale"
        ):
            attention_smoothing(model, 2.0).__enter__()
        assert model.config._attn_implementation == "fixed_kernel"
    finally:
        for name in ("scaled_kernel", "fixed_kernel"):
            tf.AttentionInterface._global_mapping.pop(name)


def test_what_is_no_decoder_only_model_is_refused():
    t5 = tf.T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4)
    for model in (tf.T5ForConditionalGeneration(t5), nn.Linear(2, 2)):
        for act in (number_of_layers, smoothable_layers, lambda m: attention_smoothing(m, 2.0).__enter__()):
            with pytest.raises(
                SmoothingError, match=f"{type(model).__name__} can't be smoothed: it is no decoder-only"
            ):
                act(model)


def test_a_model_that_cannot_run_is_refused_in_one_sentence():
    model = llama()
    model.model.layers[1].self_attn.o_proj = nn.Linear(7, 7)
    model.set_attn_implementation("flex_attention")  # its trial begins in eager mode
    before = snapshot(model)
    with pytest.raises(
        SmoothingError, match=r"^LlamaForCausalLM can't be smoothed: a trial run .*RuntimeError.*\.$"
    ):
        attention_smoothing(model, 2.0).__enter__()
    assert snapshot(model) == before
    assert model.config._attn_implementation == "flex_attention"


@pytest.mark.parametrize("tau", [0.99, 0, -2, math.nan, math.inf, -math.inf, None, "warm"])
def test_tau_out_of_range(tau):
    with pytest.raises(
        SettingError, match=r"^The temperature tau must be a finite number of at least 1, not .*\.$"
    ):
        attention_smoothing(llama(), tau).__enter__()


@pytest.mark.parametrize("layers", [[3], [-1], [0, 99], [1.5], ["1"], "1", [True], [None], 2])
@pytest.mark.parametrize("tau", [1, 2.0])
def test_layers_out_of_range(tau, layers):
    with pytest.raises(SettingError, match=r"^The layers to smooth must be indices from 0 to 2, not .*\.$"):
        attention_smoothing(llama(), tau, layers).__enter__()


@pytest.mark.parametrize("layers", [[], (), range(0), iter(())])
def test_no_layers(layers):
    with pytest.raises(SettingError, match="no layers to smooth"):
        attention_smoothing(llama(), 2.0, layers).__enter__()
