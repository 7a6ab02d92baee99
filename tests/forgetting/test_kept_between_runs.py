"""forget(..., kept=...): a second run on the same rows reads the base no more, and makes the same adapter."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from asu_lora.data.encoding import Encoder
from asu_lora.data.request import ForgetRequest
from asu_lora.forgetting import retain_rows
from asu_lora.forgetting.forget import forget
from asu_lora.forgetting.retain_rows import look_at
from asu_lora.models.frozen_layers import FrozenLayers
from asu_lora.teacher.kept_states import KeptStates
from asu_lora.training.kept_directions import InputMoments
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


def test_what_is_continued_takes_no_part(base, tmp_path):
    """Its updates stand between the base and what a module reads."""
    settings = tiny_settings(epochs=1, eval_rows=0, keep_off=0.5)
    forget(REQUEST, base, settings, name="begun", store=tmp_path)
    kept = KeptStates()
    forget(REQUEST, base, settings, name="on", store=tmp_path, continue_from="begun", kept=kept)
    assert not vars(kept)["_found"]


def test_a_queue_keeps_what_was_read_of_the_kept_rows_alone(base, tmp_path, monkeypatch):
    """Another request beside the same rows reads them no more, and makes the adapter that it would make alone."""
    read: list[str] = []
    entries, moments, vectors = FrozenLayers.compute_whole, InputMoments.read, retain_rows.row_vectors
    monkeypatch.setattr(FrozenLayers, "compute_whole", lambda *a, **more: read.append("rows") or entries(*a, **more))
    monkeypatch.setattr(InputMoments, "read", lambda *a: read.append("directions") or moments(*a))
    monkeypatch.setattr(retain_rows, "row_vectors", lambda *a: read.append("vectors") or vectors(*a))
    settings, kept = replace(SETTINGS, keep_off=0.5, own_words=0.0), KeptStates(retain_alone=True)
    other = ForgetRequest.from_rows(rows(FACTS[3:6]), rows(FACTS[6:]), "other")
    forget(REQUEST, base, settings, name="before", store=tmp_path, kept=kept)
    assert sorted(read) == ["directions", "rows", "rows", "vectors", "vectors"]
    told = {}
    for name, given in (("alone", {}), ("second", {"kept": kept})):
        read.clear()
        made = forget(other, base, settings, name=name, store=tmp_path, **given)
        told[name] = sorted(read), load_file(made.path / "adapter_model.safetensors")
    assert told["alone"][0] == ["directions", "rows", "rows", "vectors", "vectors"]
    assert told["second"][0] == ["rows"]  # its own
    assert all((told["second"][1][key] == value).all() for key, value in told["alone"][1].items())
    gone = {item.answer_ids for item in _encoded(base, REQUEST.forget)}
    assert not [item for key in vars(kept)["_found"] for item in key if getattr(item, "answer_ids", None) in gone]
    assert FACTS[0][0] not in repr(list(vars(kept)["_found"]))


def _encoded(base, examples):
    return Encoder(base.tokenizer, SETTINGS.max_length).encode_all(examples)


@pytest.mark.parametrize("free, again", [(1 << 40, 1), (1000, 2)])
def test_what_is_too_large_is_computed_again(monkeypatch, free, again):
    monkeypatch.setattr("asu_lora.teacher.kept_states.free_memory", lambda device: free)
    kept, calls = KeptStates(), []
    for _ in range(2):
        found = kept.once("key", lambda: calls.append(1) or ([torch.zeros(100)], (), [torch.zeros(3)]))
        assert len(found[0][0]) == 100
    assert len(calls) == again


def test_what_was_asked_for_longest_ago_goes_first(monkeypatch):
    monkeypatch.setattr("asu_lora.teacher.kept_states.free_memory", lambda device: 2000 - held(kept))
    kept, calls = KeptStates(), []
    for key in "abacab":  # 200 bytes each, 500 in all
        kept.once(key, lambda key=key: calls.append(key) or torch.zeros(50))
    assert calls == ["a", "b", "c", "b"] and list(vars(kept)["_found"]) == ["a", "b"]
    assert vars(kept)["_held"] == held(kept) == 400


def held(kept):
    return sum(200 for _ in vars(kept)["_found"])
