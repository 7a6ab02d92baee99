"""forget --profile: the seconds of every part add up to the run, and three training steps are traced."""

import json
import time

import pytest

from asu_lora.errors import StoreError
from asu_lora.forgetting.forget import forget
from asu_lora.forgetting.profile import StageClock
from asu_lora.progress import Progress
from tests.support.adapter_weights import same, weights
from tests.support.listener import Listener
from tests.support.tiny_run import tiny_request, tiny_settings


def test_parts_and_trace_of_a_run(base, tmp_path):
    settings, heard = tiny_settings(eval_rows=2), Listener()
    began = time.monotonic()
    forget(
        tiny_request(), base, settings, name="measured", store=tmp_path, profile=tmp_path / "profile", progress=heard
    )
    took = time.monotonic() - began
    told = json.loads((tmp_path / "profile" / "profile.json").read_text())
    assert set(heard.stages) <= set(told["seconds"]) and heard.steps == 9
    assert told["all"] == pytest.approx(sum(told["seconds"].values())) and 0.9 * took < told["all"] <= took
    assert (tmp_path / "profile" / "profile.md").read_text().count("\n") == len(told["seconds"]) + 3
    events = json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]
    assert sum(event.get("name", "").startswith("ProfilerStep") for event in events) == 3
    forget(tiny_request(), base, settings, name="alone", store=tmp_path)
    assert same(weights(tmp_path, "measured"), weights(tmp_path, "alone"))


def test_a_run_that_breaks_off_leaves_what_was_measured(base, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        forget(
            tiny_request(),
            base,
            tiny_settings(),
            store=tmp_path,
            profile=tmp_path / "profile",
            progress=Listener(stop_at=2),
        )
    assert "Training" in json.loads((tmp_path / "profile" / "profile.json").read_text())["seconds"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        forget(tiny_request(), base, tiny_settings(), store=tmp_path, profile=tmp_path / "file")


def test_stages_of_one_name_are_added_up(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    clock = StageClock(Progress())
    for name in ("one", "other", "one"):
        clock.stage(name)
    clock.finish()
    assert list(clock.seconds.values()) == [1.0, 6.0, 3.0]
    assert "| one | 6.0 | 60.0 % |" in clock.table() and "| all | 10.0 | 100 % |" in clock.table()
