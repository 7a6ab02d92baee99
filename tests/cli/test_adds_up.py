"""``--adds-up``: one flag for the settings with which adapters add up."""

import json
import re

import pytest
from click.testing import CliRunner

from asu_lora.adding_up import ADDS_UP, default_settings
from asu_lora.cli import main
from asu_lora.cli.config_options import Config, read_config
from asu_lora.config import ForgetConfig
from asu_lora.robust import ROBUST
from tests.support.tiny_run import rows


def test_it_stands_for_its_settings_and_what_else_is_given_wins():
    asked = read_config(Config(), {"adds_up": True, "rank": None})
    assert {name: getattr(asked, name) for name in ADDS_UP} == dict(ADDS_UP)
    assert asked == ForgetConfig(**ADDS_UP)
    given = read_config(Config("a file", {"keep_off": 0.25, "epochs": 3}), {"adds_up": True, "epochs": 2.0})
    assert (given.keep_off, given.epochs, given.retain_dose) == (0.25, 2.0, ADDS_UP["retain_dose"])
    assert read_config(Config(), {"adds_up": False}) == ForgetConfig()


def test_what_is_trained_alone_adds_up_unless_another_objective_is_given():
    assert read_config(Config(), {"rank": 4}, alone=True) == ForgetConfig(rank=4, **ADDS_UP)
    assert read_config(Config("a file", {"epochs": 3}), {}, alone=True) == ForgetConfig(**{**ADDS_UP, "epochs": 3})
    for values, typed in (({}, {"adds_up": False}), ({}, {"objective": "npo"}), ({"objective": "npo"}, {})):
        plain = ForgetConfig(**values | {key: value for key, value in typed.items() if key != "adds_up"})
        assert read_config(Config("a file", values), dict(typed), alone=True) == plain, (values, typed)
    assert read_config(Config(), {"objective": "asu"}, alone=True) == ForgetConfig(**ADDS_UP)
    both = read_config(Config(), {"objective": "npo", "adds_up": True}, alone=True)
    assert (both.objective, both.keep_off) == ("npo", ADDS_UP["keep_off"])
    assert read_config(Config(), {}) == ForgetConfig()


@pytest.mark.parametrize("words", ["forget", "requests run", "compare", "continual"])
def test_help_tells_what_a_command_trains_with(words):
    told = " ".join(CliRunner().invoke(main, [*words.split(), "--help-all"]).output.split())
    on = words in ("forget", "requests run")
    assert re.search(rf"--no-adds-up (?:(?!\[default).)*\[default: {'on, unless' if on else 'off'}", told)
    for name, value in ADDS_UP.items():
        default = rf"{value:g}; with --no-adds-up [^]]*" if on else rf"[^]]*; with --adds-up {value:g}"
        if (words, name) == ("compare", "lr"):
            continue  # it is of the comparison's own
        assert re.search(rf"--{name.replace('_', '-')} [A-Z](?:(?!\[default).)*\[default: {default}\]", told), name


def test_the_manifest_says_so_wherever_it_was_asked_for(tiny_base, tmp_path):
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()[:4]))
    (tmp_path / "keep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()[4:]))
    (tmp_path / "settings.yaml").write_text("epochs: 1\ntau: 3\neval_rows: 0\nprecision: fp32\n")
    command = ["forget", str(tmp_path / "forget.jsonl"), "--retain", str(tmp_path / "keep.jsonl")]
    command += ["--base", str(tiny_base), "--store", str(tmp_path / "store"), "--name", "a", "--device", "cpu"]
    done = CliRunner().invoke(main, [*command, "--config", str(tmp_path / "settings.yaml")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "store" / "a" / "manifest.json").read_text())
    told = manifest["training"] | manifest["method"] | manifest["method"]["details"]
    assert {name: told[name] for name in ADDS_UP} == dict(ADDS_UP) | {"epochs": 1}


@pytest.mark.parametrize("name", ROBUST)
def test_robust_stands_for_settings_that_what_is_typed_wins_over(name):
    asked = read_config(Config(), {"robust": name}, alone=True)
    assert asked == ForgetConfig(**{**ADDS_UP, **ROBUST[name]}) == default_settings(alone=True, robust=name)
    given = read_config(Config("a file", {"phrasings": 7}), {"robust": name, "settle_rounded": 0.5}, alone=True)
    assert (given.phrasings, given.settle_rounded) == (7, 0.5)


def test_no_level_attacks_methods_that_may_never_look_at_the_answers():
    assert read_config(Config(), {"robust": "standard"}, alone=True).attacker_lr == 2e-3
    idk = read_config(Config(), {"robust": "standard", "objective": "idk"}, alone=True)
    assert (idk.attacker_lr, idk.phrasings) == (0.0, 2)
    assert read_config(Config(), {"robust": "standard", "objective": "npo", "attacker_lr": 1e-3}).attacker_lr == 1e-3
    assert read_config(Config(), {"robust": "standard"}, papers=False).attacker_lr == 0.0  # a study's methods


def test_robust_is_off_unless_it_is_asked_for():
    assert read_config(Config(), {}, alone=True) == read_config(Config(), {"robust": "off"}, alone=True)
    assert read_config(Config(), {}).phrasings == 0
