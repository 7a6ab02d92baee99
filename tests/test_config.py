"""Settings: defaults, ranges, YAML, and the options made from them."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asu_lora.config import ForgetConfig
from asu_lora.config_mapping import config_from
from asu_lora.errors import AsuLoraError, SettingError
from asu_lora.layer_ranges import parse_layers

FIELDS = {spec.name: spec for spec in dataclasses.fields(ForgetConfig)}


def test_the_defaults_are_in_range():
    assert config_from({}, "nothing") == ForgetConfig()


@pytest.mark.parametrize(
    "changes",
    [
        {"tau": 0.99},
        {"tau": -2},
        {"tau": math.nan},
        {"tau": math.inf},
        {"tau": "hot"},
        {"tau": None},
        {"rank": 0},
        {"rank": 4.5},
        {"rank": "8"},
        {"rank": True},
        {"rank": None},
        {"alpha": 0},
        {"alpha": "much"},
        {"alpha": math.nan},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"lr": 0},
        {"lr": -1e-3},
        {"lr": math.nan},
        {"lr": math.inf},
        {"lr": "1e-3"},
        {"lr": None},
        {"epochs": 0},
        {"batch_size": 0},
        {"grad_accum": 0},
        {"retain_per_forget": -1},
        {"max_length": 7},
        {"warmup": 1.0},
        {"weight_decay": -1},
        {"max_grad_norm": 0},
        {"beta": 0},
        {"forget_coeff": -1},
        {"retain_coeff": math.inf},
        {"eval_rows": -1},
        {"seed": -1},
        {"seed": 2**32},
        {"objective": "forget"},
        {"retain_loss": None},
        {"precision": "int3"},
        {"scheduler": "saw"},
        {"report_to": "paper"},
        {"report_to": ""},
        {"report_to": "none,tensorboard"},
    ],
)
def test_a_value_out_of_range_is_named(changes):
    [(name, value)] = changes.items()
    with pytest.raises(SettingError) as caught:
        ForgetConfig(**changes)
    assert str(caught.value).startswith(f"{name} is ") and str(value) in str(caught.value)


def test_a_logger_that_is_not_installed_is_refused_before_anything_is_done(monkeypatch):
    monkeypatch.setattr("asu_lora.config.find_spec", lambda name: None)
    with pytest.raises(SettingError, match="wandb', which is not installed"):
        ForgetConfig(report_to="wandb")
    monkeypatch.setattr("asu_lora.config.find_spec", lambda name: name)
    ForgetConfig(report_to="tensorboard,wandb")


def test_yaml_values_become_the_settings_own_kinds():
    config = config_from(
        {
            "lr": "1e-3",
            "epochs": 3,
            "rank": 16.0,
            "tau": "2",
            "alpha": 8,
            "seed": "7",
            "target_modules": ["q_proj", "v_proj"],
            "smooth_layers": 5,
            "device": None,
        },
        "c.yaml",
    )
    assert (config.lr, config.epochs, config.rank, config.tau) == (1e-3, 3.0, 16, 2.0)
    assert (config.alpha, config.seed) == (8.0, 7)
    assert config.target_modules == "q_proj,v_proj" and config.modules() == ["q_proj", "v_proj"]
    assert config.smooth_layers == "5" and config.device is None
    assert isinstance(config.rank, int) and isinstance(config.epochs, float)
    assert config_from({"tau": "auto"}, "c.yaml").tau == "auto"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rnak": 4}, "c.yaml has the unknown setting 'rnak': did you mean 'rank'. Known are objective"),
        ({1: 2, "rnak": 4}, "unknown setting '1'"),
        ({"rank": "auto"}, "rank should be a whole number, not 'auto'"),
        ({"rank": 8.5}, "whole number, not 8.5"),
        ({"rank": math.nan}, "whole number, not nan"),
        ({"rank": math.inf}, "whole number, not inf"),
        ({"rank": True}, "whole number, not True"),
        ({"rank": [8]}, "whole number"),
        ({"seed": 10**400}, "whole number"),
        ({"lr": "auto"}, "lr should be a number, not 'auto'"),
        ({"lr": "fast"}, "lr should be a number, not 'fast'"),
        ({"lr": None}, "lr has no value"),
        ({"lr": False}, "lr should be a number"),
        ({"alpha": "auto"}, "alpha should be a number, not 'auto'"),
        ({"tau": "Auto"}, "tau should be a number"),
        ({"tau": "0.5"}, "tau is 0.5"),
        ({"keep_speaking": "yes"}, "keep_speaking should be true or false"),
        ({"keep_speaking": 1}, "keep_speaking should be true or false"),
        ({"device": {"cuda": 0}}, "device should be text"),
        ({"target_modules": None}, "target_modules has no value"),
    ],
)
def test_a_wrong_value_in_a_file_is_named(values, message):
    with pytest.raises(SettingError, match=message):
        config_from(values, "c.yaml")


names = st.text(max_size=3)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | names,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(values=st.dictionaries(st.sampled_from(sorted(FIELDS)), anything, max_size=3))
def test_any_value_is_taken_or_refused_in_a_sentence(values):
    try:
        config = config_from(values, "c.yaml")
    except AsuLoraError as error:
        assert "\n" not in str(error).strip()
        return
    for name, value in dataclasses.asdict(config).items():
        default = FIELDS[name].default
        assert value is None or default is None or name == "tau" or type(value) is type(default)


def test_layers():
    assert parse_layers("all", 4) is None and parse_layers(" ALL ", 4) is None
    assert parse_layers("0", 4) == [0]
    assert parse_layers("0, 2-3,2", 4) == [0, 2, 3]
    for text in ("", "-1", "1-", "a", "1,,2", "1:2", "1.0"):
        with pytest.raises(SettingError, match="can't be read"):
            parse_layers(text, 4)
    for text in ("4", "2-4", "3-2"):
        with pytest.raises(SettingError, match="layers 0 to 3"):
            parse_layers(text, 4)


def test_modules():
    assert ForgetConfig().modules() == "all-linear"
    assert ForgetConfig(target_modules=" q_proj , v_proj,").modules() == ["q_proj", "v_proj"]
    with pytest.raises(SettingError, match="names no module"):
        ForgetConfig(target_modules=" , ").modules()
