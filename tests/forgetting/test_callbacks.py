"""A user's own callbacks of the Trainer, and the names that ``import asu_lora`` gives."""

import json
import subprocess
import sys

import pytest
from transformers import TrainerCallback

from asu_lora.errors import SettingError
from asu_lora.forgetting.forget import forget
from tests.support.adapter_weights import same, weights
from tests.support.tiny_run import tiny_request, tiny_settings


class Steps(TrainerCallback):
    def __init__(self, last=None):
        self.phases, self.losses, self.last = [], [], last

    def on_train_begin(self, args, state, control, **kwargs):
        self.phases.append([])

    def on_step_end(self, args, state, control, **kwargs):
        self.phases[-1].append(state.global_step)
        control.should_training_stop = state.global_step == self.last

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.losses += [logs["forget_loss"]] if "forget_loss" in logs else []


def test_a_callback_sees_every_step_of_both_phases_and_changes_nothing(base, tmp_path, snapshot):
    settings = tiny_settings(epochs=8, lr=5e-3, own_words=0.5, seed=1)
    seen = Steps()
    result = forget(tiny_request(), base, settings, name="seen", store=tmp_path, callbacks=[seen])
    forget(tiny_request(), base, settings, name="unseen", store=tmp_path)
    assert sum(map(len, seen.phases)) == result.record.training["steps"] == len(seen.losses)
    assert len(seen.phases) == 2 and all(steps[0] == 1 for steps in seen.phases)
    assert same(weights(tmp_path, "seen"), weights(tmp_path, "unseen"))


def test_a_callback_may_end_training(base, tmp_path, snapshot):
    result = forget(tiny_request(), base, tiny_settings(own_words=0.0), store=tmp_path, callbacks=[Steps(last=4)])
    assert result.record.training["steps"] == 4 and result.path.is_dir()


@pytest.mark.parametrize(("given", "said"), [(Steps, "the class Steps"), (print, "of type builtin")])
def test_what_is_no_callback_is_refused_before_a_base_is_loaded(tmp_path, given, said):
    with pytest.raises(SettingError, match=rf"A callback is {said}.*transformers\.TrainerCallback"):
        forget(tiny_request(), "no/such-base", tiny_settings(), store=tmp_path, callbacks=[given])


def test_the_audit_is_there_after_a_plain_import_which_stays_light():
    program = (
        "import sys, json, asu_lora\n"
        "light = [m for m in ('torch', 'transformers', 'asu_lora.audit') if m in sys.modules]\n"
        "names = asu_lora.audit.audit.__module__, asu_lora.audit.AuditRequest.__name__, 'audit' in dir(asu_lora)\n"
        "print(json.dumps([light, *names]))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == [[], "asu_lora.audit.run", "AuditRequest", True]
