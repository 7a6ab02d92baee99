"""Adapters as people have them, put on a base: every tensor is applied, or the adapter is refused by name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration

from asu_lora.errors import AdapterError
from asu_lora.merging.merge import merge
from asu_lora.models import adapter_stack
from asu_lora.models.adapter_loading import take_off
from asu_lora.models.frozen_adapters import check_ground, frozen_adapters
from asu_lora.models.loading import load_base
from tests.support.lora_folders import logits_of, save_lora, stacked
from tests.support.tiny_base import save_tiny_base

PREFIX = "base_model.model."
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_base(str(tiny_base), "fp32", "cpu")


@pytest.fixture(scope="module")
def plain(tiny_base, tmp_path_factory):
    return save_lora(tiny_base, tmp_path_factory.mktemp("loras") / "plain", size=0.3)


def changed(folder, target, rename=lambda key: key, config=(), more=()):
    """A copy with other tensor names, settings and tensors."""
    shutil.copytree(folder, target)
    tensors = {rename(key): tensor for key, tensor in load_file(target / WEIGHTS).items()}
    save_file(tensors | dict(more), target / WEIGHTS)
    settings = json.loads((target / CONFIG).read_text())
    (target / CONFIG).write_text(json.dumps(settings | dict(config)))
    return target


def answers(base, *adapters):
    """Logits of the base, of the stack, and of the stack with its adapters off."""
    before = logits_of(base.model)
    loaded = adapter_stack.load(base, adapters)
    on = logits_of(loaded.model)
    with loaded.without_adapters():
        off = logits_of(loaded.model)
    loaded.unload()
    assert torch.equal(logits_of(base.model), before)
    return before, on, off


def everywhere(base, folder, tmp_path):
    """What each way to use an adapter says of it: asking, training on top, going on from it, a dry run's check."""

    def stand_on(**ground):
        with frozen_adapters(base, **ground):
            pass

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(base.model.config)
    said = []
    for use in (
        lambda: adapter_stack.load(base, [folder]),
        lambda: stand_on(adapters=[folder]),
        lambda: stand_on(continue_from=folder),
        lambda: adapter_stack.check_fit(empty, [(folder, 1.0)]),
        lambda: merge(base.source, [(folder, 1.0)], tmp_path / "merged", precision="fp32"),
    ):
        with pytest.raises(AdapterError) as refused:
            use()
        said.append(str(refused.value))
        assert "\n" not in said[-1] and folder.name in said[-1]
    assert not (tmp_path / "merged").exists()
    assert not any(hasattr(module, "lora_A") for module in [*base.model.modules(), *empty.modules()])
    return said


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: f"_orig_mod.{key}",
        lambda key: key.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda key: key.replace("layers.", "layers._orig_mod.").replace("self_attn", "_orig_mod.self_attn"),
        lambda key: f"module.{key}",
        lambda key: f"base_model.model.{key}",
        lambda key: key.removeprefix(PREFIX),
        lambda key: key.replace("layers.1.", "layers.1._fsdp_wrapped_module.").replace(
            "self_attn", "_checkpoint_wrapped_module.self_attn"
        ),
        lambda key: key.replace(".weight", ".default.weight"),
        lambda key: key.replace("model.model.layers", "model.language_model.model.layers"),
        lambda key: key.replace("model.model.layers", "model.model.language_model.layers"),
        lambda key: key.replace("model.model.layers", "model.layers"),
    ],
)
def test_the_marks_of_wrappers_and_of_other_layouts_are_understood(base, plain, tmp_path, rename):
    _, sound, _ = answers(base, plain)
    before, on, off = answers(base, changed(plain, tmp_path / "renamed", rename))
    assert torch.equal(on, sound) and torch.equal(off, before) and not torch.equal(on, before)


def test_ranks_and_scalings_survive_another_layout(tiny_base, base, tmp_path):
    folder = save_lora(
        tiny_base, tmp_path / "a", size=0.3, use_rslora=True, rank_pattern={"layers.1.self_attn.q_proj": 6},
        alpha_pattern={"v_proj": 3}, layers_to_transform=[1],
    )  # fmt: skip
    other = changed(folder, tmp_path / "b", lambda key: key.replace("model.layers", "model.language_model.layers"))
    assert torch.equal(answers(base, other)[1], answers(base, folder)[1])


def test_a_merge_understands_the_same_names(tiny_base, plain, tmp_path):
    for name, rename in (("plain", lambda key: key), ("other", lambda key: f"_orig_mod.{key}".replace("model.model.layers", "model.layers"))):  # fmt: skip
        merge(str(tiny_base), [(changed(plain, tmp_path / name, rename), 1.0)], tmp_path / f"{name}-out", "fp32")
    assert torch.equal(logits_of(tmp_path / "plain-out"), logits_of(tmp_path / "other-out"))


def test_an_adapter_of_a_deeper_sibling_is_refused(base, tmp_path):
    deep = save_lora(save_tiny_base(tmp_path / "deep", num_hidden_layers=4), tmp_path / "sibling")
    said = everywhere(base, deep, tmp_path)
    assert all("layers.2.self_attn.q_proj" in sentence for sentence in said)


def test_an_adapter_of_a_shallower_sibling_is_refused(tmp_path):
    """Half of the modules that its config names would stay as the base has them."""
    shallow = save_lora(save_tiny_base(tmp_path / "shallow", num_hidden_layers=1), tmp_path / "sibling")
    base = load_base(str(save_tiny_base(tmp_path / "base")), "fp32", "cpu")
    said = everywhere(base, shallow, tmp_path)
    assert all("layers.1.self_attn.q_proj" in sentence and "missing" in sentence for sentence in said)


@pytest.mark.parametrize("key", ["model.layers.0.self_attn.q_proj.lora_C.weight", "model.embed_tokens.weight",
                                 "lm_head.weight", "model.norm.weight", "model.layers.0.self_attn.q_proj.bias",
                                 "model.layers.0.self_attn.q_proj.lora_magnitude_vector",
                                 "model.embed_tokens.base_layer.weight"])  # fmt: skip
def test_a_tensor_that_is_no_part_of_a_lora_is_refused(base, plain, tmp_path, key):
    folder = changed(plain, tmp_path / "more", more={PREFIX + key: torch.ones(4)})
    assert all(key in sentence for sentence in everywhere(base, folder, tmp_path))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bias": "all"}, "biases"),
        ({"bias": "lora_only"}, "biases"),
        ({"init_lora_weights": "pissa", "r": 8}, "'pissa'"),
        ({"init_lora_weights": "pissa_niter_4", "r": 8}, "'pissa_niter_4'"),
        ({"init_lora_weights": "olora", "r": 8}, "'olora'"),
        ({"layer_replication": [[0, 2], [0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1, 2]}, "activated LoRA"),
    ],
)
def test_what_changes_the_base_is_refused_everywhere(tiny_base, base, tmp_path, settings, said):
    folder = save_lora(tiny_base, tmp_path / "special", **settings)
    assert all(said in sentence for sentence in everywhere(base, folder, tmp_path))


@pytest.mark.parametrize(
    "config",
    [
        {"init_lora_weights": "corda"},
        {"init_lora_weights": "loftq"},
        {"init_lora_weights": "lora_ga"},
        {"init_lora_weights": "a way of next year"},
        {"kasa_config": {"beta": 1}},
        {"use_a_method_of_next_year": True},
        {"scaling_of_next_year": 2.0},
        {"use_qalora": True},
    ],
)
def test_settings_that_nobody_here_knows_are_refused_everywhere(base, plain, tmp_path, config):
    folder = changed(plain, tmp_path / "special", config=config)
    said = everywhere(base, folder, tmp_path)
    value = next(iter(config.values()))
    assert all(next(iter(config)) in s or str(value) in s or "KaSA" in s or "QALoRA" in s for s in said)


@pytest.mark.parametrize("config", [{"target_modules": "("}, {"exclude_modules": "["}])
def test_a_pattern_that_is_none_is_refused_everywhere(base, plain, tmp_path, config):
    everywhere(base, changed(plain, tmp_path / "a", config=config), tmp_path)


@pytest.mark.parametrize("config", [{"a_switch_of_next_year": False}, {"another": None}, {"list": []}])
def test_a_setting_of_next_year_that_is_off_is_served(base, plain, tmp_path, config):
    assert torch.equal(answers(base, changed(plain, tmp_path / "a", config=config))[1], answers(base, plain)[1])


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"use_rslora": True, "r": 9},
        {"lora_bias": True},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"trainable_token_indices": [40, 41]},
        {"init_lora_weights": "orthogonal"},
        {"target_modules": "all-linear", "exclude_modules": ["lm_head"]},
        {"target_modules": ["q_proj"], "target_parameters": ["mlp.down_proj.weight"]},
    ],
)
def test_what_can_be_switched_off_exactly_is_served(tmp_path, settings):
    folder = save_tiny_base(tmp_path / "base", tie_word_embeddings=False)
    base = load_base(str(folder), "fp32", "cpu")
    adapter = save_lora(folder, tmp_path / "a", size=0.3, **settings)
    if "modules_to_save" in settings or "trainable_token_indices" in settings:  # the copies that it would have trained
        own = lambda key: "lora_" not in key  # noqa: E731
        tensors = {key: t + 0.5 if own(key) else t for key, t in load_file(adapter / WEIGHTS).items()}
        save_file(tensors, adapter / WEIGHTS)
    before, on, off = answers(base, adapter)
    assert torch.equal(off, before) and not torch.equal(on, before)
    torch.testing.assert_close(on, logits_of(stacked(folder, [(adapter, 1.0)])))


def test_retrained_tokens_of_a_base_whose_head_is_tied_are_served(tiny_base, base, tmp_path):
    """PEFT writes them once, for the embedding; the head goes by them."""
    adapter = save_lora(tiny_base, tmp_path / "a", size=0.3, trainable_token_indices=[5, 40])
    tensors = {key: t if "lora_" in key else t + 0.5 for key, t in load_file(adapter / WEIGHTS).items()}
    save_file(tensors, adapter / WEIGHTS)
    before, on, off = answers(base, adapter)
    assert torch.equal(off, before) and not torch.equal(on, before)
    torch.testing.assert_close(on, logits_of(stacked(tiny_base, [(adapter, 1.0)])))


@pytest.mark.parametrize("weight", [0.0, 0.5, -1.0])
@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [1]}]
)
def test_a_weight_that_would_not_scale_the_adapter_is_refused(tiny_base, base, tmp_path, settings, weight):
    folder = save_lora(tiny_base, tmp_path / "a", **settings)
    for use in (
        lambda: adapter_stack.load(base, [(folder, weight)]),
        lambda: check_ground(base.source, [(folder, weight)], tmp_path),
    ):
        with pytest.raises(AdapterError, match="can't be given the weight"):
            use()


def test_at_weight_zero_an_adapter_is_the_base(base, plain):
    before, on, _ = answers(base, (plain, 0.0))
    assert torch.equal(on, before)


def test_two_adapters_that_replace_one_module_are_refused_together(tiny_base, base, tmp_path):
    folders = [save_lora(tiny_base, tmp_path / name, modules_to_save=["lm_head"]) for name in "ab"]
    with pytest.raises(AdapterError, match="can't be used together"):
        adapter_stack.load(base, folders)
    assert not any(hasattr(module, "modules_to_save") for module in base.model.modules())


def test_an_adapter_of_the_multimodal_class_goes_onto_it_whatever_its_layout(tmp_path):
    """Gemma 3 keeps its decoder in model.language_model now, and kept it in language_model.model before."""
    config = Gemma3Config(
        text_config={"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8,
                     "num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 8},
        vision_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4, image_token_index=60, boi_token_index=61, eoi_token_index=62,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "base")
    adapter = save_lora(tmp_path / "base", tmp_path / "now", size=0.3, target_modules=r".*language_model.*q_proj")
    older = changed(adapter, tmp_path / "then", lambda key: key.replace("model.language_model.", "language_model.model."),
                    {"target_modules": r"^language_model\.model\.layers.*q_proj"})  # fmt: skip
    got = []
    for folder in (adapter, older):
        loaded = adapter_stack.stack_adapters(model, [(folder, 1.0)])
        got.append(logits_of(loaded))
        take_off(model)
    assert torch.equal(*got) and not torch.equal(got[0], logits_of(model))
