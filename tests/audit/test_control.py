"""--control auto: a control as large and trained as long as the audited adapter, on other rows, out of the store's sight."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.control import NAME, config_of
from asu_lora.audit.parts import FOLDER, KEPT_DAYS
from asu_lora.audit.request import AuditRequest
from asu_lora.audit.run import audit
from asu_lora.audit.settings import AuditSettings
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import SettingError
from asu_lora.forgetting.forget import forget
from tests.support.listener import Listener
from tests.support.lora_folders import give_manifest, save_lora
from tests.support.planted import FORGET, KEPT
from tests.support.tiny_run import rows, tiny_settings

SETTINGS = AuditSettings(("direct",), "quick")
CONFIG = tiny_settings(epochs=4, adapter_layers="1", smooth_layers="0-1", retain_loss="kl", own_words=0.0)


@pytest.fixture(scope="module")
def trained(taught_base, tmp_path_factory) -> AuditRequest:
    folder = tmp_path_factory.mktemp("control")
    for name, facts in (("forget", FORGET), ("keep", KEPT)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows(facts))))
    request = ForgetRequest.from_rows(rows(FORGET), rows(KEPT))
    forget(request, str(taught_base), CONFIG, name="anna", store=folder / "store")
    return AuditRequest(
        forget=folder / "forget.jsonl",
        retain=folder / "keep.jsonl",
        base=str(taught_base),
        adapters=("anna",),
        store=folder / "store",
        control="auto",
        precision="fp32",
        device="cpu",
    )


class Steps(Listener):
    """Counts the control's steps, and interrupts at one of them."""

    def advance(self, amount=1, **figures):
        if self.stages[-1].startswith("Control: Training") and amount == 1:  # what was made before comes at once
            self.steps += 1
            if self.steps == self.stop_at:
                raise KeyboardInterrupt


def places(asked):
    return sorted((Path(asked.store) / FOLDER).glob(f"{NAME}-*"))


def test_it_is_trained_once_as_the_audited_adapter_was_on_kept_rows_and_recorded(trained):
    store = AdapterStore(trained.store)
    audited = store.get("anna").manifest
    with pytest.raises(KeyboardInterrupt):
        audit(trained, SETTINGS, Steps(stop_at=8))
    listener = Steps()
    result = audit(trained, SETTINGS, listener)
    assert 0 < listener.steps < audited.training["steps"]  # it went on where it was interrupted
    made = result.control_made
    assert (made.rows, made.rows_from, made.steps, made.rank) == (3, "kept", audited.training["steps"], CONFIG.rank)
    [attack] = result.attacks
    facts = attack.readings[0]
    assert facts.control is not None and facts.control.rows == facts.candidate.rows
    assert made.says in attack.notes and "3 kept rows (rank 4, 12 steps)" in made.says
    assert json.loads(result.model_dump_json())["control_made"]["steps"] == 12

    [place] = places(trained)
    control = AdapterStore(place).get(NAME).manifest
    for each in ("lora", "method"):
        ours, theirs = (getattr(manifest, each) for manifest in (control, audited))
        assert ours == theirs, each
    same = audited.training.keys() - {"epochs", "train_loss", "train_seconds", "eval_rows"}
    assert {name: control.training[name] for name in same} == {name: audited.training[name] for name in same}
    assert store.names() == ["anna"]

    old = time.time() - (KEPT_DAYS + 1) * 86_400
    os.utime(place, (old, old))  # what is used is not dropped
    again = Steps()
    assert audit(trained, SETTINGS, again).control_made == made
    assert not any(stage.startswith("Control:") for stage in again.stages)


def test_other_rows_are_trained_on_for_as_many_steps(trained):
    manifest = AdapterStore(trained.store).get("anna").manifest
    told = config_of(manifest, 6)
    assert replace(told, epochs=CONFIG.epochs, smooth_layers="0-1", tau=3.0) == replace(
        CONFIG, smooth_layers="0-1", alpha=told.alpha, target_modules=told.target_modules
    )
    assert told.layers(2) == CONFIG.layers(2) and told.lora_alpha == CONFIG.lora_alpha
    for some in (1, 2, 3, 5, 6, 11):
        config = config_of(manifest, some)
        an_epoch = -(-some // config.batch_size)
        assert manifest.training["steps"] - 1 < config.epochs * an_epoch <= manifest.training["steps"]


def test_what_a_control_can_t_be_made_after_is_refused_before_a_base_is_loaded(trained, taught_base, tmp_path):
    store = AdapterStore(trained.store)
    untold = give_manifest(save_lora(taught_base, tmp_path / "untold", 1), taught_base)
    bare = save_lora(taught_base, tmp_path / "bare", 2)
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps(rows(KEPT)[0]))
    cases = [
        (dict(adapters=("anna", untold)), "made after one adapter, not after 2"),
        (dict(adapters=()), "made after one adapter, not after 0"),
        (dict(adapters=(untold,)), "untold is none"),
        (dict(adapters=(bare,)), "bare is none"),
        (dict(retain=one), "two kept rows or more"),
    ]
    for changes, says in cases:
        listener = Listener()
        with pytest.raises(SettingError, match=says) as caught:
            audit(replace(trained, **changes), SETTINGS, listener)
        assert "\n" not in str(caught.value) and not listener.stages
    assert store.names() == ["anna"]
