"""Adapters that read nothing that those beneath them read."""

import shutil

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from asu_lora.adapters.manifest import read_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import SettingError
from asu_lora.forgetting.forget import forget
from asu_lora.models.loading import load_base
from tests.support.ground import request
from tests.support.tiny_run import tiny_settings


def test_an_orthogonal_adapter_reads_nothing_that_those_beneath_read(base, store, tmp_path):
    """And still learns: through the directions that are left."""
    found = {}
    for orthogonal in (False, True):
        made = AdapterStore(tmp_path / str(orthogonal))
        for name in ("a", "b"):
            shutil.copytree(store.resolve(name), made.root / name)
        config = tiny_settings(objective="ga", lr=1e-2, orthogonal=orthogonal, eval_rows=2)
        result = forget(request(4, 6, "c"), base, config, store=made, on_top_of=["a", "b:0.5"])
        assert read_manifest(result.path).method.details["orthogonal"] is orthogonal
        new = load_file(result.path / "adapter_model.safetensors")
        overlap = [
            (weight @ earlier[name].T).abs().max()
            for beneath in ("a", "b")
            for earlier in [load_file(made.resolve(beneath) / "adapter_model.safetensors")]
            for name, weight in new.items()
            if "lora_A" in name and name in earlier
        ]
        assert len(overlap) > 2
        found[orthogonal] = max(overlap)
        assert all(weight.abs().max() > 1e-4 for name, weight in new.items() if "lora_B" in name)
        assert result.after["forget_probability"] < result.before["forget_probability"]
    assert found[True] < 1e-5 < 1e-2 < found[False]


def test_no_room_for_an_orthogonal_adapter(base, store, tmp_path):
    wide = AdapterStore(tmp_path)
    hidden = base.model.config.hidden_size
    forget(request(0, 2, "wide"), base, tiny_settings(rank=hidden, epochs=1, eval_rows=0), store=wide)
    with pytest.raises(SettingError, match="no room"):
        forget(request(4, 6, "c"), base, tiny_settings(orthogonal=True), store=wide, on_top_of=["wide"])
    assert wide.names() == ["wide"] and not (wide.root / ".runs" / "c").exists()


def test_nothing_to_be_orthogonal_to(base, store, tmp_path):
    with pytest.raises(SettingError, match="--on-top-of"):
        forget(request(4, 6, "c"), base, tiny_settings(orthogonal=True), store=tmp_path)
    lora = LoraConfig(r=2, use_dora=True, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = load_base(base.source.name, "fp32", "cpu").model
    get_peft_model(model, lora).save_pretrained(tmp_path / "dora")
    with pytest.raises(SettingError, match="DoRA"):
        forget(request(4, 6, "c"), base, tiny_settings(orthogonal=True), store=tmp_path, on_top_of=[tmp_path / "dora"])
