"""The retain loss and the weights of an objective's paper: one record a loss, and the table that tells them."""

import re

import pytest

from asu_lora.adding_up import ADDS_UP, default_settings
from asu_lora.cli.config_options import Config, given_settings, read_config
from asu_lora.config import ForgetConfig
from asu_lora.errors import SettingError
from asu_lora.losses import FORGET, paper_settings
from asu_lora.studies.methods import FIELD, PAPER, method, method_configs
from tests.support.root import ROOT

FIELDS_OWN = {method(name).objective: method(name) for name in FIELD}


def table():
    """The column "beside it in the paper" of docs/method.md, by objective."""
    rows = re.findall(r"^\| (`[^|]*?`) \| [^|]+ \| ([^|]*?) \|", (ROOT / "docs" / "method.md").read_text(), re.M)
    return {name: beside for names, beside in rows for name in re.findall(r"`(.+?)`", names)}


@pytest.mark.parametrize("objective", FORGET)
def test_the_page_says_what_the_record_says(objective):
    told, own = table()[objective], paper_settings(objective)
    if objective not in FIELDS_OWN:
        assert own == {}, "the ASU paper's losses are compared at the same weights"
        return
    said = {f"{which}_coeff": float(weight) for which, weight in re.findall(r"(forget|retain) ([\d.]+)", told)}
    assert own == said | {"retain_loss": told.split(",")[0].strip("`")}
    assert own["retain_loss"] == FIELDS_OWN[objective].retain_loss


def test_the_weights_are_for_the_papers_own_retain_loss():
    assert paper_settings("rmu", "rmu")["retain_coeff"] == 1200
    assert paper_settings("rmu", "gd") == {} == paper_settings("npo", "gd")
    with pytest.raises(SettingError, match="no objective 'sft'"):
        paper_settings("sft")


def weights(config):
    return config.retain_loss, config.forget_coeff, config.retain_coeff


def test_forget_takes_the_papers_and_what_is_given_wins():
    simnpo = {"objective": "simnpo"}
    for alone in (True, False):
        assert weights(read_config(Config(), simnpo, alone=alone)) == ("gd", 0.125, 1.0)
        assert weights(read_config(Config("a file", simnpo), {"epochs": 3.0}, alone=alone)) == ("gd", 0.125, 1.0)
        assert weights(read_config(Config(), {"objective": "undial"}, alone=alone))[0] == "none"
    assert weights(read_config(Config(), simnpo | {"retain_coeff": 1.5})) == ("gd", 0.125, 1.5)
    assert weights(read_config(Config("a file", {"forget_coeff": 1}), simnpo)) == ("gd", 1.0, 1.0)
    assert weights(read_config(Config(), simnpo | {"retain_loss": "kl"})) == ("kl", 1.0, 1.5)
    assert weights(read_config(Config(), simnpo | {"adds_up": True})) == ("kl-answers", 1.0, ADDS_UP["retain_coeff"])
    assert read_config(Config(), {"objective": "npo"}) == ForgetConfig(objective="npo")
    with pytest.raises(SettingError, match="objective is 'sft'"):
        read_config(Config("a file", {"objective": "sft"}), {})


def test_the_library_s_defaults_do_too():
    assert weights(default_settings(alone=True, objective="pdu")) == ("gd", 1.0, 100.0)
    assert default_settings(alone=True) == ForgetConfig(**ADDS_UP) and default_settings(alone=False) == ForgetConfig()


def test_a_method_of_a_study_takes_its_papers_unless_somebody_chose():
    config, simnpo = ForgetConfig(), method("SIMNPO_GD")
    assert simnpo.weights(config) == {"forget_coeff": 0.125, "retain_coeff": 1.0}
    assert simnpo.weights(ForgetConfig(retain_coeff=2.0)) == {"forget_coeff": 0.125}
    assert simnpo.weights(config, {"retain_coeff"}) == {"forget_coeff": 0.125}
    assert method("SIMNPO_KL").weights(config) == {} == method("Base").weights(config)
    for name in (*PAPER, "ASU_KL-ANSWERS", "UNDIAL_NONE", "CEU_NONE"):
        assert method(name).weights(config) == {}, name


def test_a_history_s_methods_take_theirs():
    found = method_configs("PDU_GD,NPO_GD,SATIMP_GD=1e-4", ForgetConfig())
    assert {name: weights(each) for name, each in found.items()} == {
        "PDU_GD": ("gd", 1.0, 100.0),
        "NPO_GD": ("gd", 1.0, 1.5),
        "SATIMP_GD": ("gd", 0.1, 1.0),
    }
    assert weights(method_configs("PDU_GD", ForgetConfig(), {"retain_coeff"})["PDU_GD"]) == ("gd", 1.0, 1.5)


def test_what_was_given_is_what_was_typed_or_stands_in_the_file():
    typed = {"retain_coeff": 1.5, "rank": None, "adds_up": None}
    assert given_settings(Config("a file", {"lr": 1e-3}), typed) == {"lr", "retain_coeff"}
    assert {"forget_coeff", "retain_coeff"} <= given_settings(Config(), {"adds_up": True})
    # a study whose methods bring their own is not given the objective's
    assert weights(read_config(Config(), {"objective": "simnpo"}, papers=False)) == ("kl-answers", 1.0, 1.5)
