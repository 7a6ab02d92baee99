"""What attention smoothing refuses, and how: never silently unsmoothed."""

import math

import pytest
import torch
import transformers as tf
from torch import nn

from asu_lora.errors import SettingError, SmoothingError
from asu_lora.teacher.smoothing import attention_smoothing, number_of_layers
from tests.support.smoothing_models import (
    ARCHITECTURES,
    BAMBA,
    FALCON,
    GPT_LIKE,
    GPT_NEO,
    JAMBA,
    LLAMA_LIKE,
    MAMBA,
    MPT,
    QWEN3_NEXT,
    Biased,
    Convolving,
    Deaf,
    build,
    llama,
    logits,
    randomise,
    smoothable_layers,
    snapshot,
    softmax_of_divided_logits,
    with_attention,
)


@pytest.mark.parametrize(
    "config, able, words",
    [
        (JAMBA, [1], "JambaForCausalLM can't be smoothed in layer 0 (JambaMambaDecoderLayer): it has no softmax"),
        (BAMBA, [2], "BambaForCausalLM can't be smoothed in layer 0 (BambaDecoderLayer): it has no softmax"),
        (QWEN3_NEXT, [0, 2], "Qwen3NextForCausalLM can't be smoothed in layer 1 (Qwen3NextDecoderLayer): it has no"),
        (tf.FalconH1Config(**LLAMA_LIKE, mamba_d_ssm=64, **MAMBA), [], "tokens meet outside softmax attention too"),
        (tf.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=3), [], "it has no softmax attention"),
        (MPT, [], "MptForCausalLM can't be smoothed in layer 0 (MptBlock): dividing the scale of its MptAttention"),
        (tf.FalconConfig(**FALCON), [], "FalconForCausalLM can't be smoothed in layer 0 (FalconDecoderLayer)"),
        (GPT_NEO, [], "GPTNeoForCausalLM can't be smoothed in layer 0 (GPTNeoBlock): it has no softmax attention"),
        (tf.GPT2Config(**GPT_LIKE, add_cross_attention=True), [], "its GPT2Attention took no part in a trial run"),
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
    with pytest.raises(SmoothingError, match=rf"LlamaForCausalLM .* layer 2 .*its {kind.__name__} leaves something"):
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
            out = torch._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True, scale=scale)[0]
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
        with pytest.raises(SmoothingError, match="with fixed_kernel attention its LlamaAttention ignores the scale"):
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
    with pytest.raises(SmoothingError, match=r"^LlamaForCausalLM can't be smoothed: a trial run .*RuntimeError.*\.$"):
        attention_smoothing(model, 2.0).__enter__()
    assert snapshot(model) == before
    assert model.config._attn_implementation == "flex_attention"


@pytest.mark.parametrize("tau", [0.99, 0, -2, math.nan, math.inf, -math.inf, None, "warm"])
def test_tau_out_of_range(tau):
    with pytest.raises(SettingError, match=r"^The temperature tau must be a finite number of at least 1, not .*\.$"):
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
