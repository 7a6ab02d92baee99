"""Attention smoothing against an independent reading of the formula: the softmax, given logits / tau."""

import contextlib
import copy
import gc
import weakref

import pytest
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from asu_lora.teacher.smoothing import attention_smoothing, number_of_layers
from tests.support.smoothing_models import (
    ARCHITECTURES,
    IDS,
    JAMBA,
    LLAMA_LIKE,
    MPT,
    SLIDING,
    Deaf,
    Jittering,
    build,
    llama,
    logits,
    randomise,
    smoothable_layers,
    snapshot,
    softmax_of_divided_logits,
    with_attention,
)

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

RESTORED = (build(ARCHITECTURES["gemma2"][0]), build(ARCHITECTURES["gpt_oss"][0]), build(ARCHITECTURES["gptj"][0]))


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
    config = LoraConfig(r=4, target_modules=targets, lora_dropout=0.5, init_lora_weights=False, task_type="CAUSAL_LM")
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
    nf4 = tf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
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
