"""The memory plan of a base that is stored in LLM.int8's 8 bit."""

import shutil

from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from asu_lora.forgetting.dry_run import planned_run
from asu_lora.memory_plan import plan_memory
from asu_lora.models.loading import load_base
from tests.support.tiny_run import tiny_request, tiny_settings


def test_a_base_that_is_stored_in_8_bit_is_counted_so(tiny_base, tmp_path, monkeypatch):
    """Its maps were counted whole: an 8B base took 16 GB in the plan, and --fit refused what fits."""
    monkeypatch.setenv("ASU_LORA_NF4_COMPUTE", "fp32")
    shutil.copytree(tiny_base, tmp_path / "base", ignore=shutil.ignore_patterns("model.safetensors"))
    in_8_bit = BitsAndBytesConfig(load_in_8bit=True)
    stored = AutoModelForCausalLM.from_pretrained(tiny_base, quantization_config=in_8_bit, device_map={"": "cpu"})
    stored.save_pretrained(tmp_path / "base")
    model = load_base(str(tmp_path / "base"), "nf4", "cpu").model
    scales = [p.SCB for p in model.parameters() if getattr(p, "SCB", None) is not None]
    assert len(scales) == 14
    settings = tiny_settings(precision="nf4")
    plan = plan_memory(planned_run(tiny_request(), str(tmp_path / "base"), settings), settings)
    real = sum(t.numel() * t.element_size() for t in (*model.parameters(), *scales))
    assert plan.phases["training"]["weights"] == real
    assert plan.phases["training"]["a map made whole"] == 4 * 64 * 128
