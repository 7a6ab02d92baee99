"""Several adapters on one base, against the sums of their updates done by hand."""

import json

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import AdapterError, AsuLoraError, SettingError, StoreError
from asu_lora.evaluation.evaluate import evaluate
from asu_lora.evaluation.question_sets import QuestionSet
from asu_lora.forgetting.forget import forget
from asu_lora.models import adapter_stack as stack
from asu_lora.models.loading import load_base
from tests.support.fixed_logits import logits
from tests.support.tiny_base import save_tiny_base
from tests.support.tiny_run import rows, tiny_request, tiny_settings


@pytest.fixture(scope="module")
def store(taught_base, tmp_path_factory):
    """Two adapters of different ranks, scalings and modules."""
    root = tmp_path_factory.mktemp("store")
    base = load_base(str(taught_base), "fp32", "cpu")
    for name, changes in (("a", {"seed": 1}), ("b", {"rank": 2, "alpha": 5.0, "target_modules": "q_proj,down_proj"})):
        forget(tiny_request(), base, tiny_settings(lr=1e-2, **changes), name=name, store=root)
    return AdapterStore(root)


@pytest.fixture
def base(taught_base):
    return load_base(str(taught_base), "fp32", "cpu")


def by_hand(taught_base, store, weights):
    """W + sum of weight * alpha/r * B A, from the files alone."""
    model = AutoModelForCausalLM.from_pretrained(taught_base, dtype=torch.float32)
    parameters = dict(model.named_parameters())
    for name, weight in weights.items():
        folder = store.root / name
        config, tensors = (
            json.loads((folder / "adapter_config.json").read_text()),
            load_file(folder / "adapter_model.safetensors"),
        )
        for key, a in tensors.items():
            if "lora_A" in key:
                b = tensors[key.replace("lora_A", "lora_B")]
                target = key.removeprefix("base_model.model.").replace("lora_A.", "")
                parameters[target].data += weight * config["lora_alpha"] / config["r"] * (b @ a)
    return logits(model)


@pytest.mark.parametrize(
    ("adapters", "weights"),
    [
        (["a"], {"a": 1.0}),
        (["a:0.25"], {"a": 0.25}),
        (["a", "b:0.5"], {"a": 1.0, "b": 0.5}),
        ([("b", 2.0), ("a", -1.0)], {"a": -1.0, "b": 2.0}),
        (["a:0", "b"], {"b": 1.0}),
    ],
)
def test_the_updates_are_added(taught_base, base, store, adapters, weights):
    loaded = stack.load(base, adapters, store)
    got, expected = logits(loaded.model), by_hand(taught_base, store, weights)
    plain = by_hand(taught_base, store, {})
    assert (got - expected).abs().max() < 1e-3 * (expected - plain).abs().max()
    with loaded.without_adapters() as bare:
        assert (logits(bare.model) - plain).abs().max() < 1e-5
    assert torch.equal(logits(loaded.model), got)
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())


def test_one_adapter_twice_counts_twice(taught_base, base, store):
    got = logits(stack.load(base, ["a:0.5", "a:0.5"], store).model)
    assert torch.allclose(got, by_hand(taught_base, store, {"a": 1.0}), atol=1e-4)


def test_without_adapters_a_stack_is_its_base(taught_base, base, store):
    loaded = stack.load(base, [], store)
    assert loaded.model is base.model and loaded.adapters == []
    with loaded.without_adapters():
        assert loaded.ask([rows()[0]["question"]]) == [rows()[0]["answer"]]
    assert torch.equal(logits(loaded.model), by_hand(taught_base, store, {}))


def test_a_base_by_its_name_and_an_adapter_by_its_folder(taught_base, store):
    loaded = stack.load(str(taught_base), [store.root / "a"], "nowhere", precision="fp32", device="cpu")
    assert torch.allclose(logits(loaded.model), by_hand(taught_base, store, {"a": 1.0}), atol=1e-4)
    assert loaded.adapters == [("a", 1.0)]
    assert loaded.ask([row["question"] for row in rows()]) != [row["answer"] for row in rows()]


def test_an_adapter_of_other_weights_is_refused(store, tmp_path):
    other = load_base(str(save_tiny_base(tmp_path / "other", seed=5)), "fp32", "cpu")
    with pytest.raises(AdapterError, match="fingerprint doesn't match") as refused:
        stack.load(other, ["a"], store)
    assert "\n" not in str(refused.value) and "'a'" in str(refused.value)
    assert not any(isinstance(module, BaseTunerLayer) for module in other.model.modules())


def test_a_folder_that_does_not_fit_leaves_a_plain_base(base, store, tmp_path):
    """Plain PEFT, without a manifest to tell: the second of two has other shapes."""
    import shutil

    wide = load_base(str(save_tiny_base(tmp_path / "wide", hidden_size=32)), "fp32", "cpu")
    forget(tiny_request(), wide, tiny_settings(epochs=1), name="wide", store=tmp_path / "store")
    folder = shutil.copytree(tmp_path / "store" / "wide", tmp_path / "bare")
    (folder / "manifest.json").unlink()
    for adapters in ([folder], ["a", folder]):
        with pytest.raises(AdapterError, match="'bare' doesn't fit the base"):
            stack.load(base, adapters, store)
        assert not any(isinstance(module, BaseTunerLayer) for module in base.model.modules())


@pytest.mark.parametrize("text", ["a:much", "a:", "a:nan", "a:inf"])
def test_weights_that_are_no_numbers(base, store, text):
    with pytest.raises(SettingError):
        stack.load(base, [text], store)


def test_unknown_adapters(base, store):
    with pytest.raises(StoreError, match="no adapter"):
        stack.load(base, ["c"], store)
    with pytest.raises(AsuLoraError):
        stack.load(base, ["a", "c:0.5"], store)
    assert not any(isinstance(module, BaseTunerLayer) for module in base.model.modules())


def test_names_and_weights():
    assert stack.parse_adapter("a") == ("a", 1.0)
    assert stack.parse_adapter("a:0.5") == ("a", 0.5)
    assert stack.parse_adapter("a:-1e-1") == ("a", -0.1)
    assert stack.parse_adapter("C:\\adapters\\a") == ("C:\\adapters\\a", 1.0)
    assert stack.parse_adapter("x:y/a") == ("x:y/a", 1.0)


def test_a_run_records_its_request_under_the_stores_secret(store):
    """A plain hash of a small request would let anybody confirm a guess of it."""
    from asu_lora.adapters.manifest import read_manifest

    recorded, plain = read_manifest(store.root / "a").request.fingerprint, tiny_request().fingerprint()
    assert recorded.startswith("hmac-sha256:") and plain not in (store.root / "a" / "manifest.json").read_text()
    assert store.is_request(recorded, plain)


# ---- several stacks on one loaded base


def test_the_stack_that_was_loaded_last_answers_and_earlier_ones_refuse(base, store):
    plain, question = logits(base.model), rows()[0]["question"]
    bare, first = stack.load(base, [], store), stack.load(base, ["a"], store)
    of_a = logits(first.model)
    with pytest.raises(AdapterError, match="one stack at a time"):
        bare.ask(question)  # would answer as a
    second = stack.load(base, ["b"], store)
    assert torch.equal(logits(second.model), logits(stack.load(load_base_of(base), ["b"], store).model))
    asked = [QuestionSet("forget", tiny_request(1).forget)]
    for refuses in (lambda: first.ask(question), first.without_adapters().__enter__, lambda: evaluate(first, asked)):
        with pytest.raises(AdapterError, match="load this one again"):
            refuses()
    first.unload()  # takes nothing of the second off
    assert second.ask(question) and not torch.equal(logits(base.model), plain)
    second.unload()
    assert torch.equal(logits(base.model), plain) and bare.ask(question) == second.ask(question)
    assert torch.equal(logits(stack.load(base, ["a"], store).model), of_a)


def test_a_run_on_a_base_with_a_stack_on_it_trains_on_the_plain_base(base, store, tmp_path):
    left = stack.load(base, ["a"], store)
    forget(tiny_request(2, 2), base, tiny_settings(epochs=1), name="beside", store=tmp_path)
    forget(tiny_request(2, 2), load_base_of(base), tiny_settings(epochs=1), name="alone", store=tmp_path)
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("beside", "alone")]
    assert files[0] == files[1]
    with pytest.raises(AdapterError, match="load this one again"):
        left.ask(rows()[0]["question"])  # would answer as the base


def load_base_of(base):
    return load_base(str(base.source.path), "fp32", "cpu")
