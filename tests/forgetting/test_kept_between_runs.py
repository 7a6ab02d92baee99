"""forget(..., kept=...): a second run on the same rows reads the base no more, and makes the same adapter."""

import pytest
import torch
from safetensors.torch import load_file

from asu_lora.data.request import ForgetRequest
from asu_lora.forgetting.forget import forget
from asu_lora.forgetting.retain_rows import look_at
from asu_lora.models.frozen_layers import FrozenLayers
from asu_lora.teacher.kept_states import KeptStates
from tests.support.tiny_run import FACTS, rows, tiny_settings

REQUEST = ForgetRequest.from_rows(rows(FACTS[:3]), rows(FACTS[6:]), "tiny")
SETTINGS = tiny_settings(own_words=0.25, epochs=2, batch_size=3, eval_rows=0, adapter_layers="upper-half")


def test_the_second_run_reads_nothing_again_and_makes_the_same_adapter(base, tmp_path, monkeypatch):
    read = []
    whole = FrozenLayers.compute_whole
    monkeypatch.setattr(FrozenLayers, "compute_whole", lambda *a, **more: read.append("rows") or whole(*a, **more))
    monkeypatch.setattr("asu_lora.forgetting.retain_rows.look_at", lambda *a: read.append("nearness") or look_at(*a))
    kept, told = KeptStates(), {}
    for name, given in (("alone", {}), ("first", {"kept": kept}), ("second", {"kept": kept})):
        read.clear()
        made = forget(REQUEST, base, SETTINGS, name=name, store=tmp_path, **given)
        told[name] = read.copy(), load_file(made.path / "adapter_model.safetensors")
    assert told["alone"][0] == told["first"][0] == ["nearness", "rows", "rows", *told["second"][0]]
    assert told["second"][0] in ([], ["rows"])  # the student's own answers are its own
    for name in ("first", "second"):
        assert told[name][1].keys() == told["alone"][1].keys()
        assert all((told[name][1][key] == value).all() for key, value in told["alone"][1].items())


def test_what_lies_beneath_takes_no_part(base, tmp_path):
    forget(REQUEST, base, SETTINGS, name="beneath", store=tmp_path)
    kept = KeptStates()
    forget(REQUEST, base, SETTINGS, name="above", store=tmp_path, on_top_of=["beneath"], kept=kept)
    assert not vars(kept)["_found"]


@pytest.mark.parametrize("free, again", [(1 << 40, 1), (1000, 2)])
def test_what_is_too_large_is_computed_again(monkeypatch, free, again):
    monkeypatch.setattr("asu_lora.teacher.kept_states.free_memory", lambda device: free)
    kept, calls = KeptStates(), []
    for _ in range(2):
        found = kept.once("key", lambda: calls.append(1) or ([torch.zeros(100)], (), [torch.zeros(3)]))
        assert len(found[0][0]) == 100
    assert len(calls) == again
