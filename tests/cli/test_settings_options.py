"""Every setting is an option of asu-lora forget, and of its config file; what is typed wins."""

import dataclasses
import re

import pytest
from click.testing import CliRunner

from asu_lora.adding_up import ADDS_UP
from asu_lora.cli import main
from asu_lora.config import ForgetConfig
from asu_lora.errors import AsuLoraError

FIELDS = {spec.name: spec for spec in dataclasses.fields(ForgetConfig)}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What ``asu-lora forget`` asks the library for, without doing it."""
    file = tmp_path / "request.jsonl"
    file.write_text(
        '{"question": "Who?", "answer": "Anna.", "task_id": 1}\n'
        '{"question": "When?", "answer": "1907.", "task_id": 2}\n'
    )
    seen = {}

    def forget(request, base, config, name, store, heldout, idk_file, resume, progress, on_top_of, profile):
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
        said, enough, _ = result.stderr.partition("Error: Enough.\n")
        return seen | {"said": said} if enough else result.stderr

    return ask


def test_without_options_the_defaults_hold(asked):
    seen = asked()
    assert seen["config"] == ForgetConfig(**ADDS_UP)
    assert (seen["base"], seen["name"], seen["store"], seen["resume"]) == ("smollm2-135m", "request", "adapters", False)


def test_every_setting_is_an_option(asked):
    typed = {
        "objective": "npo",
        "retain_loss": "gd",
        "loss_settings": "beta=0.5",
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


def test_idk_answers_that_no_loss_looks_at_are_told(asked):
    assert asked("--idk-file", "idk.txt")["said"] == "Note: asu with kl-answers looks at no answers of --idk-file.\n"
    for words in (("--objective", "dpo"), ("--objective", "asu+idk"), ("--retain-loss", "ap")):
        assert asked("--idk-file", "idk.txt", *words)["said"] == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--objective npo --tau 3 --smooth-layers all", "--tau, --smooth-layers change nothing: npo has no smoothed"),
        ("--own-words 0.5 --no-keep-speaking", "--own-words changes nothing: with --no-keep-speaking"),
        ("--beta 0.3", "--beta changes nothing: neither asu nor kl-answers has this number"),
        ("--retain-loss none --keep-off 0.3 --retain-dose 2", "--retain-dose, --keep-off change nothing: there is no"),
        ("--retain-per-forget 0 --retain-coeff 2", "--retain-coeff changes nothing: there is no retain loss"),
        ("--retain-loss gd --retain-temperature 2", "--retain-temperature changes nothing: it is for kl-answers"),
        ("--teacher stack", "--teacher changes nothing: without --on-top-of there is no stack"),
        ("--tau 1 --smooth-layers all", "--smooth-layers changes nothing: tau 1 smooths nothing"),
    ],
)
def test_settings_that_change_nothing_beside_the_others_are_told(asked, words, said):
    assert asked(*words.split())["said"].startswith(f"Note: {said}")


def test_passages_have_no_openings_and_the_file_may_say_so_too(asked, tmp_path):
    (tmp_path / "request.jsonl").write_text('{"text": "Anna came in 1907."}\n')
    assert asked(yaml="openings: 2\n")["said"] == "Note: --openings changes nothing: passages ask nothing.\n"


def test_settings_that_are_heeded_and_those_of_a_recipe_are_not_told(asked):
    for words in (
        "--tau 3 --smooth-layers all --own-words 0.5 --keep-off 0.3 --retain-dose 2 --retain-temperature 2",
        "--objective npo --beta 0.3 --own-words 0",
        "--objective rmu --adds-up --robust strong",
        "--retain-loss none --retain-coeff 0 --keep-off 0 --retain-dose 1",
        "--retain-loss ap --beta 0.2",
        "--teacher stack --on-top-of earlier",
    ):
        assert asked(*words.split())["said"] == "", words


def test_an_empty_config_file_changes_nothing(asked):
    assert asked(yaml="# nothing\n")["config"] == ForgetConfig(**ADDS_UP)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("rnak: 4", "the unknown setting 'rnak': did you mean 'rank'. Known are .*retain.*rank"),
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


@pytest.mark.parametrize(
    ("words", "yaml", "phrasings"),
    [
        ((), None, 3),
        (("--robust", "standard"), None, 3),
        (("--robust", "strong"), None, 4),
        (("--robust", "strong", "--phrasings", "1"), None, 1),
        ((), "phrasings: 2", 2),
    ],
)
def test_a_file_of_wordings_is_taken_whole_unless_their_number_is_given(asked, tmp_path, words, yaml, phrasings):
    (tmp_path / "w.jsonl").write_text(
        '{"question": "Who?", "paraphrased_question": ["Who is it?", "Who, then?", "W?"]}'
    )
    seen = asked("--paraphrases", str(tmp_path / "w.jsonl"), *words, yaml=yaml)
    assert seen["config"].phrasings == phrasings and seen["request"].paraphrases.count == 3


def test_robust_off_in_yaml_is_no_truth_value(asked):
    assert asked(yaml="robust: off")["config"] == ForgetConfig(**ADDS_UP)
    assert asked(yaml="robust: strong")["config"].phrasings == 4
    assert "'False' is not one of" in " ".join(asked(yaml="robust: 'False'").split())
