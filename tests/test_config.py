"""Settings: defaults, ranges, YAML, and the options made from them."""

import dataclasses
import math
import re

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from asu_lora.cli import main
from asu_lora.config import ForgetConfig, config_from
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
        ({"rnak": 4}, "c.yaml has the unknown setting 'rnak'; known are objective"),
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


# ---- the options


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What ``asu-lora forget`` asks the library for, without doing it."""
    file = tmp_path / "request.jsonl"
    file.write_text(
        '{"question": "Who?", "answer": "Anna.", "task_id": 1}\n'
        '{"question": "When?", "answer": "1907.", "task_id": 2}\n'
    )
    seen = {}

    def forget(request, base, config, name, store, heldout, idk_file, resume, progress, on_top_of):
        seen.update(
            request=request,
            base=base,
            config=config,
            name=name,
            store=str(store),
            idk_file=idk_file,
            resume=resume,
            on_top_of=on_top_of,
        )
        raise AsuLoraError("Enough.")

    monkeypatch.setattr("asu_lora.forgetting.forget.forget", forget)
    for name in ("ASU_LORA_STORE", "ASU_LORA_BASE"):
        monkeypatch.delenv(name, raising=False)

    def ask(*arguments, yaml=None):
        seen.clear()
        if yaml is not None:
            (tmp_path / "c.yaml").write_text(yaml)
            arguments = (*arguments, "--config", str(tmp_path / "c.yaml"))
        result = CliRunner().invoke(main, ["forget", str(file), *arguments])
        assert result.exit_code == 2, result.output
        return seen if result.stderr == "Error: Enough.\n" else result.stderr

    return ask


def test_without_options_the_defaults_hold(asked):
    seen = asked()
    assert seen["config"] == ForgetConfig()
    assert (seen["base"], seen["name"], seen["store"], seen["resume"]) == ("smollm2-135m", "request", "adapters", False)


def test_every_setting_is_an_option(asked):
    typed = {
        "objective": "npo",
        "retain_loss": "gd",
        "tau": "2.5",
        "scheduler": "cosine",
        "precision": "fp32",
        "device": "cpu",
        "report_to": "none",
        "smooth_layers": "1-2",
        "adapter_layers": "0",
        "alpha": "3",
        "target_modules": "q_proj",
        "optimizer": "sgd",
        "teacher": "stack",
        "seed": "9",
        "max_length": "99",
        "system_prompt": "Be short.",
        "template_date": "2024-02-29",
    }
    arguments, expected = [], {}
    for name, spec in FIELDS.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(spec.default, bool):
            arguments.append("--no-" + flag[2:] if spec.default else flag)
            expected[name] = not spec.default
        else:
            value = typed.get(name) or str(spec.default + (1 if isinstance(spec.default, int) else 0.125))
            arguments += [flag, value]
            expected[name] = value
    config = dataclasses.asdict(asked(*arguments)["config"])
    assert {name: str(value).removesuffix(".0") for name, value in config.items()} == {
        name: str(value).removesuffix(".0") for name, value in expected.items()
    }


def test_short_flags(asked):
    seen = asked("-r", "4", "-b", "2", "-n", "short", "-t", "a", "-t", "b:0.5")
    assert seen["on_top_of"] == ("a", "b:0.5")
    assert (seen["config"].rank, seen["config"].batch_size, seen["name"]) == (4, 2, "short")


def test_a_config_file_holds_any_option_and_what_is_typed_wins(asked, tmp_path):
    kept = tmp_path / "kept.jsonl"
    kept.write_text('{"question": "Where?", "answer": "Here."}\n')
    text = (
        f"# a run\nrank: 4\nlr: 1e-4\ntau: auto\nbase: some/base\nname: from-file\nretain: {kept}\n"
        f"store: {tmp_path}/s\nresume: true\nidk_file: idk.txt\nwhere: {{task_id: 2}}\nkeep_speaking: false\n"
    )
    seen = asked(yaml=text)
    assert (seen["config"].rank, seen["config"].lr, seen["config"].keep_speaking) == (4, 1e-4, False)
    assert (seen["base"], seen["name"], seen["store"]) == ("some/base", "from-file", f"{tmp_path}/s")
    assert (seen["resume"], seen["idk_file"]) == (True, "idk.txt")
    assert [example.answer for example in seen["request"].forget] == ["1907."]
    assert seen["request"].retain_source == "file"
    seen = asked("--rank", "2", "--name", "typed", "--keep-speaking", "--where", "task_id=1", yaml=text)
    assert (seen["config"].rank, seen["config"].lr, seen["config"].keep_speaking) == (2, 1e-4, True)
    assert (seen["name"], seen["base"]) == ("typed", "some/base")
    assert [example.answer for example in seen["request"].forget] == ["Anna."]


def test_an_empty_config_file_changes_nothing(asked):
    assert asked(yaml="# nothing\n")["config"] == ForgetConfig()


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("rnak: 4", "the unknown setting 'rnak'; known are .*retain.*rank"),
        ("help: true", "the unknown setting 'help'"),
        ("config: other.yaml", "the unknown setting 'config'"),
        ("rank: [4", "c.yaml is not YAML: .*line 1"),
        ("a: b: c", "is not YAML"),
        ("seed: 2020-13-45", "is not YAML"),
        ("rank: !!python/object:os.system 4", "is not YAML"),
        ("- rank\n- 4", "should hold settings such as"),
        ("just words", "should hold settings such as"),
        ("rank: four", "rank should be a whole number, not 'four'"),
        ("tau: 0.5", "tau is 0.5"),
        ("tau: .nan", "tau is nan"),
        ("resume: often", "resume should be true or false, not 'often'"),
        ("name:", "name should be text, not None"),
        ("retain: [a, b]", "retain should be text"),
        ("where: task_id", "'task_id' is not COLUMN=VALUE"),
        ("\x00", "is not YAML"),
    ],
)
def test_a_bad_config_file_is_refused_in_one_sentence(asked, yaml, message):
    error = asked(yaml=yaml)
    assert isinstance(error, str), "it was taken"
    last = error.strip().splitlines()[-1]
    assert last.startswith("Error: ") and re.search(message, last)


def test_a_config_file_that_is_not_there(asked, tmp_path):
    assert "can't be read: No such file or directory." in asked("--config", "nowhere.yaml")
    assert "can't be read: Is a directory." in asked("--config", str(tmp_path))
    (tmp_path / "latin.yaml").write_bytes(b"name: K\xf6ln\n")
    assert "is not YAML" in asked("--config", str(tmp_path / "latin.yaml"))


@pytest.mark.parametrize("pairs", [["task_id"], ["=1"], ["task_id=1", "task_id=2"]])
def test_where_needs_a_column_and_one_value(asked, pairs):
    error = asked(*(word for pair in pairs for word in ("--where", pair)))
    assert "Invalid value for '--where'" in error
