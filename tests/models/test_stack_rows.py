"""One length, one system prompt and one date: what an adapter was trained with is what it is scored and asked with."""

import json
from datetime import date

import pytest

from asu_lora import forget
from asu_lora.data.chat_template import ChatTemplate
from asu_lora.data.encoding import encoder_for
from asu_lora.data.examples import question_answer
from asu_lora.data.request import ForgetRequest
from asu_lora.data.row_format import RowFormat
from asu_lora.errors import DataError, SettingError
from asu_lora.evaluation.evaluate import evaluate
from asu_lora.evaluation.question_sets import QuestionSet
from asu_lora.models.adapter_stack import load
from tests.support.tiny_base import TEMPLATE, save_tiny_base, tiny_tokenizer
from tests.support.tiny_run import rows, tiny_settings

DATED = (
    "<|im_start|>system\n{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{% endif %}Today Date: {{ date_string }}<|im_end|>\n"  # as in Llama 3.2's
)
LEAP_DAY = "2024-02-29"


@pytest.fixture(scope="module")
def dated_base(tmp_path_factory):
    folder = save_tiny_base(tmp_path_factory.mktemp("bases") / "dated")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = DATED + TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


def train(base, store, name, **settings):
    request = ForgetRequest.from_rows(rows()[:2], rows()[2:4], name)
    return forget(request, base, tiny_settings(epochs=1, **settings), name=name, store=store)


def asked(stack) -> str:
    return stack.encoder().prompt_text(question_answer("Who?", "-").prompt)


def recorded(result) -> dict:
    return json.loads((result.path / "manifest.json").read_text())["training"]


def test_the_date_of_training_is_recorded_and_used_again(dated_base, tmp_path):
    result = train(dated_base, tmp_path, "a", template_date=LEAP_DAY)
    assert recorded(result)["template_date"] == LEAP_DAY
    stack = load(dated_base, ["a"], tmp_path, "fp32", "cpu")
    assert "Today Date: 29 Feb 2024" in asked(stack)
    assert [note for note in stack.notes if LEAP_DAY in note]
    other = load(stack.base, ["a"], tmp_path, rows={"template_date": "2020-01-31"})
    assert "Today Date: 31 Jan 2020" in asked(other)


def test_without_a_date_it_is_the_day_of_training(dated_base, tmp_path):
    before = date.today().isoformat()
    result = train(dated_base, tmp_path, "a")
    assert recorded(result)["template_date"] in (before, date.today().isoformat())


def test_a_template_without_a_date_records_none(tiny_base, tmp_path):
    assert recorded(train(str(tiny_base), tmp_path, "a", template_date=LEAP_DAY))["template_date"] is None


def test_a_pinned_date_is_written_as_the_clock_would_write_it():
    tokenizer = tiny_tokenizer()
    directives = "%Y-%m-%d %d %b %Y %A %B %-d %j %y %H:%M %a %e"
    tokenizer.chat_template = "{{ strftime_now('" + directives + "') }}" + TEMPLATE
    day = date.fromisoformat(LEAP_DAY)
    told = ChatTemplate(tokenizer, date=LEAP_DAY).prompt([{"role": "user", "content": "q"}])
    assert told.partition("<|im_start|>")[0] == day.strftime(directives)
    today = ChatTemplate(tokenizer).prompt([{"role": "user", "content": "q"}])
    assert told.partition("<|im_start|>")[2] == today.partition("<|im_start|>")[2]


def test_a_system_prompt_stands_before_training_scores_and_questions(tiny_base, tmp_path):
    result = train(str(tiny_base), tmp_path, "a", system_prompt="Be short.")
    assert recorded(result)["system_prompt"] == "Be short."
    stack = load(str(tiny_base), ["a"], tmp_path, "fp32", "cpu")
    assert asked(stack).startswith("<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user")
    assert "Be short." not in asked(load(stack.base, ["a"], tmp_path, rows={"system_prompt": ""}))
    own = [{"role": "system", "content": "Be long."}, {"role": "user", "content": "Who?"}]
    assert "Be short." not in stack.encoder().prompt_text(own)


def test_adapters_of_different_prompts_are_said_to_be(tiny_base, tmp_path):
    train(str(tiny_base), tmp_path, "a", system_prompt="Be short.")
    train(str(tiny_base), tmp_path, "b", max_length=300)
    stack = load(str(tiny_base), ["a", "b"], tmp_path, "fp32", "cpu")
    assert [note for note in stack.notes if "different system prompts; that of 'b'" in note]
    assert stack.rows == RowFormat(512, None, None)


def test_rows_are_scored_up_to_the_length_they_were_trained_with(tmp_path):
    folder = str(save_tiny_base(tmp_path / "base", max_position_embeddings=4096))
    long = {"question": "What does he do? " * 70, "answer": "He rows a ferry."}  # 1,200 tokens, as bytes
    request = ForgetRequest.from_rows([long], rows()[2:4], "a")
    forget(request, folder, tiny_settings(epochs=1, max_length=2048), name="a", store=tmp_path / "store")
    stack = load(folder, ["a"], tmp_path / "store", "fp32", "cpu")
    sets = [QuestionSet("forget", request.forget)]
    result = evaluate(stack, sets)
    assert result.records[0]["probability"] > 0 and not [note for note in result.notes if "--max-length" in note]
    with pytest.raises(DataError, match="raise --max-length above 600"):
        evaluate(load(stack.base, ["a"], tmp_path / "store", rows={"max_length": 600}), sets)
    [item] = stack.encoder().encode_all(request.forget)
    less = len(item) - 3
    cut = evaluate(load(stack.base, ["a"], tmp_path / "store", rows={"max_length": less}), sets)
    assert [note for note in cut.notes if note.startswith(f"1 of 1 forget answers are longer than --max-length {less}")]


def test_a_date_that_is_none_is_refused(tiny_base):
    with pytest.raises(SettingError, match="template_date is '2024-02-30', which is no date"):
        tiny_settings(template_date="2024-02-30")
    with pytest.raises(SettingError, match="write it like 2026-01-31"):
        load(str(tiny_base), [], "adapters", "fp32", "cpu", rows={"template_date": "yesterday"})


def test_a_manifest_of_before_tells_the_defaults():
    assert RowFormat.recorded({}) == RowFormat()
    odd = {"max_length": "many", "system_prompt": 5, "template_date": "soon"}
    assert RowFormat.recorded(odd) == RowFormat()
    assert RowFormat.recorded({"max_length": 2048, "template_date": LEAP_DAY}) == RowFormat(2048, None, LEAP_DAY)


def test_settings_that_are_not_set_leave_an_interrupted_run_what_it_was():
    assert not {"system_prompt", "template_date"} & set(tiny_settings().identity())
    assert tiny_settings(system_prompt="Be short.").identity()["system_prompt"] == "Be short."


def test_the_encoder_knows_the_limits_of_the_base(tiny_base):
    base = load(str(tiny_base), [], "adapters", "fp32", "cpu").base
    encoder = encoder_for(base.tokenizer, base.model.config, RowFormat(4096))
    assert (encoder.limits.positions, encoder.limits.vocabulary, encoder.max_length) == (1024, 320, 1024)


def test_a_resumed_run_keeps_the_date_that_it_began_with(dated_base, tmp_path):
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.forgetting.run_folder import RUNS, date_of_rows

    store, tokenizer = AdapterStore(tmp_path), load(dated_base, [], tmp_path, "fp32", "cpu").base.tokenizer
    today = date.today().isoformat()
    kept = tmp_path / RUNS / "a" / "run.json"
    kept.parent.mkdir(parents=True)
    for begun, wanted, expected in (
        ({"template_date": LEAP_DAY}, None, LEAP_DAY),
        ({"template_date": LEAP_DAY}, "2020-01-31", "2020-01-31"),
        ({}, None, None),  # it began before dates were recorded: by the clock, as it did then
    ):
        kept.write_text(json.dumps({"config": begun}))
        assert date_of_rows(store, "a", tokenizer, wanted, resume=True) == expected
        assert date_of_rows(store, "a", tokenizer, None, resume=False) == today
    kept.write_text("[]")
    assert date_of_rows(store, "a", tokenizer, None, resume=True) == today


def test_the_positions_of_a_base_are_read_by_whatever_name_its_config_has():
    from transformers import BloomConfig, GPT2Config, MptConfig, RobertaConfig

    from asu_lora.data.row_format import BaseLimits

    assert BaseLimits.of(GPT2Config(n_positions=96)).positions == 96
    assert BaseLimits.of(MptConfig(max_seq_len=96)).positions == 96
    assert BaseLimits.of(BloomConfig()).positions is None
    roberta = RobertaConfig(max_position_embeddings=514, pad_token_id=1)
    assert BaseLimits.of(roberta).positions == 512


def test_a_check_of_a_merge_says_which_answers_are_cut(tmp_path):
    from asu_lora.data.sampling import sample
    from asu_lora.merging.check import _Asked
    from asu_lora.progress import Progress

    class Heard(Progress):
        notes: list[str] = []

        def note(self, text):
            self.notes.append(text)

    folder = save_tiny_base(tmp_path / "base")
    stack = load(str(folder), [], tmp_path, "fp32", "cpu", rows={"max_length": 60})
    forget_rows = [question_answer("Who?", "A man of note. " * 9), question_answer("Who?", "A man.")]
    _Asked(sample(forget_rows, 9), [], stack.encoder(), Heard()).note_cuts()
    assert Heard.notes == [
        "1 of 2 forget answers are longer than --max-length 60 and were cut off: what stands beyond it is not scored."
    ]
