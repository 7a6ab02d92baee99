"""Retain rows out of a pool: near ones, none that says the forgotten facts, with a warning where they protect little."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch.nn.functional import normalize

import asu_lora
from asu_lora.adapters.store import AdapterStore
from asu_lora.cli import main
from asu_lora.data.examples import Example, examples_from_rows, question_answer
from asu_lora.data.request import ForgetRequest, general_retain
from asu_lora.data.retain_pool import RetainPool
from asu_lora.errors import AsuLoraError
from asu_lora.models.hidden_states import hidden_states
from asu_lora.retain.choose import choose_rows, nearest_in_turn, row_hash
from asu_lora.retain.nearness import FEW, look_at
from asu_lora.retain.row_vectors import _every_token, row_vectors
from asu_lora.retain.same_facts import LIKELY, saying_the_same
from tests.support.listener import Listener
from tests.support.tiny_run import FACTS, rows, tiny_settings

FORGET = examples_from_rows(rows(FACTS[:4]), "forget")
NEAR = examples_from_rows(rows(FACTS[4:]), "near")
FAR = [question_answer(f"What is {i} plus {i + 1}?", f"{2 * i + 1}") for i in range(40)]


def test_vectors_are_the_mean_of_a_middle_layer_without_the_first_token(base):
    row = NEAR[0]
    item = _every_token(base, row)
    [states] = hidden_states(base.model, [item], base.pad_id, layer=0)  # of two layers
    assert len(states) == len(base.tokenizer(f"{row.question}\n{row.answer}").input_ids) - 1
    torch.testing.assert_close(row_vectors(base, [FAR[0], row])[1], states.float().mean(0), rtol=1e-4, atol=1e-5)


def test_the_rows_about_like_things_are_chosen_and_the_request_itself_never(base, snapshot):
    pool = RetainPool((*FAR[:20], *FORGET, *NEAR, *NEAR, *FAR[20:]), wanted=len(NEAR))
    heard = Listener()
    choice = choose_rows(base, FORGET, pool, heard)
    assert [row.answer for row in choice.rows] == [row.answer for row in NEAR]
    assert (choice.pool, choice.same, choice.looked_at) == (60, 4 + len(NEAR), 48)
    assert choice.nearness.near >= len(NEAR) - 2
    assert heard.stages == ["Comparing the pool with the request", "Choosing retain rows"]
    assert any(f"of {len(NEAR)} retain rows are" in note and str(FEW) in note for note in choice.notes(8))


def test_a_row_that_may_say_the_same_goes_where_its_states_are_as_near(base, monkeypatch):
    """Words that only make it likely are not enough: the vectors decide, as they would on a base that knows more."""
    forget = [question_answer("What did Anna Birk paint in Oslo?", "Anna Birk painted harbours, ships and gulls.")]
    again = question_answer("What are Anna Birk's pictures of?", "They show gulls over an old quay, at dawn, in fog.")
    pool = RetainPool((again, *FAR[:5]), wanted=6)
    assert not saying_the_same([again, *FAR[:5]], forget)[0]
    assert saying_the_same([again, *FAR[:5]], forget, LIKELY)[0]
    for cosine, kept in ((0.99, 5), (0.5, 6)):
        vectors = torch.tensor([[1.0, 0.0], [cosine, (1 - cosine**2) ** 0.5]])
        others = torch.tensor([[-1.0, 0.2]]).repeat(5 + len(general_retain()), 1)
        everything = torch.cat([vectors, others])
        monkeypatch.setattr("asu_lora.retain.choose.row_vectors", lambda *_, found=everything: found)
        monkeypatch.setattr("asu_lora.retain.nearness.centred", lambda vectors, centre: normalize(vectors, dim=-1))
        assert len(choose_rows(base, forget, pool).rows) == kept


def test_each_row_of_the_request_has_neighbours():
    cosines = torch.tensor([[0.9, 0.0], [0.8, 0.1], [0.7, 0.0], [0.0, 0.4], [0.0, 0.3]])
    assert nearest_in_turn(cosines, 2) == [0, 3]
    assert nearest_in_turn(cosines, 4) == [0, 1, 3, 4]
    assert nearest_in_turn(cosines, 9) == [0, 1, 2, 3, 4]


def test_far_rows_are_warned_of_however_many_and_near_rows_are_not(base):
    near = [question_answer(f"What does {name} Berg do?", f"{name} Berg {does}.") for name, does in
            ((f"{one.split()[0]}{two.split()[1]}", does) for one, does in FACTS[4:] for two, _ in FACTS[:4])]  # fmt: skip
    assert look_at(base, FORGET, near).note() is None
    assert "general questions" in look_at(base, FORGET, general_retain()).note()


def test_a_pool_that_only_says_the_request_is_refused(base):
    with pytest.raises(AsuLoraError, match="No row of the retain pool can be kept"):
        choose_rows(base, FORGET, RetainPool(tuple(FORGET)))


def test_rows_of_every_shape_have_a_vector(base):
    odd = [Example((), "x"), Example((), "word " * 5000), question_answer("?", "\U0001f41d")]
    assert row_vectors(base, odd).isfinite().all()


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.delenv("ASU_LORA_STORE", raising=False)
    pool = [{"question": row.question, "answer": row.answer} for row in (*FAR[:10], *NEAR, *FORGET)]
    for name, those in (("request", rows(FACTS[:4])), ("pool", pool)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in those))
    return tmp_path


def forget(folder, base, *more):
    words = ["forget", str(folder / "request.jsonl"), "--base", str(base), "--store", str(folder / "store")]
    fast = ["--precision", "fp32", "--device", "cpu", "--tau", "2", "--epochs", "1", "--eval-rows", "0"]
    return CliRunner().invoke(main, [*words, *fast, *more])


def test_the_command_records_which_rows_it_chose(files, taught_base):
    auto = ["--retain", "auto", "--retain-pool", str(files / "pool.jsonl"), "--retain-rows", "6"]
    planned = forget(files, taught_base, *auto, "--dry-run", "--json")
    assert json.loads(planned.stdout)["retain rows"].startswith("6 of a pool of 22, chosen when the run begins")
    done = forget(files, taught_base, *auto)
    assert done.exit_code == 0, done.output
    assert "6 retain rows were chosen of 22" in done.stderr
    store = AdapterStore(files / "store")
    manifest = store.get("request").manifest
    assert (manifest.request.retain_rows, manifest.request.retain_source) == (6, "chosen from a pool")
    chosen = manifest.method.details["retain_choice"]
    assert set(chosen["rows"]) <= set(range(11, 19)) and len(chosen["rows"]) == 6  # their lines in the pool
    pool = [*FAR[:10], *NEAR, *FORGET]
    for number, recorded in zip(chosen["rows"], chosen["hashes"], strict=True):
        assert store.is_request(recorded, row_hash(pool[number - 1]))  # under the store's secret
        assert recorded != row_hash(pool[number - 1])
    shown = CliRunner().invoke(main, ["adapters", "show", "request", "--store", str(store.root)])
    assert "6 of a pool of 22" in shown.output


def test_a_row_without_room_for_its_answer_is_left_out_by_plan_and_run(files, taught_base):
    long = {"question": "Please help: " + "log line " * 200, "answer": "Reboot."}
    with (files / "pool.jsonl").open("a") as pool:
        pool.write(json.dumps(long) + "\n")
    auto = ["--retain", "auto", "--retain-pool", str(files / "pool.jsonl"), "--retain-rows", "19"]
    planned = forget(files, taught_base, *auto, "--dry-run", "--json")
    assert planned.exit_code == 0, planned.stderr
    done = forget(files, taught_base, *auto)
    assert done.exit_code == 0, done.stderr
    said = "1 of the retain pool's 23 rows can't be trained on and are left out: The prompt of retain row 23 takes"
    assert said in json.loads(planned.stdout)["notes"] and said in " ".join(done.stderr.split())
    (files / "pool.jsonl").write_text(json.dumps(long))
    refused = forget(files, taught_base, *auto, "--name", "other")
    assert "No row of the retain pool can be trained on: The prompt of retain row 1" in " ".join(refused.stderr.split())


def test_the_same_request_chooses_the_same_rows_again(files, taught_base):
    pool = RetainPool.from_source(files / "pool.jsonl", 5)
    request = ForgetRequest.from_files(files / "request.jsonl", pool)
    config = tiny_settings(epochs=1)
    found = [
        asu_lora.forget(request, str(taught_base), config, name=name, store=files / "store").record.retain_choice
        for name in ("one", "two")
    ]
    assert found[0] == found[1] and found[0]["pool_rows"] == 22


@pytest.mark.parametrize(
    "more, said",
    [
        (["--retain", "auto"], "--retain auto needs --retain-pool"),
        (["--retain-pool", "pool.jsonl"], "--retain-pool is what --retain auto chooses from"),
        (["--retain", "keep.jsonl", "--retain-rows", "3"], "--retain-rows says how --retain auto chooses"),
        (["--retain-by", "encoder"], "--retain-by says how --retain auto chooses"),
        (["--retain", "auto", "--retain-pool", "nowhere.jsonl"], "There is no file nowhere.jsonl"),
    ],
)
def test_half_an_instruction_is_refused_in_one_sentence(files, taught_base, more, said):
    refused = forget(files, taught_base, *more)
    assert refused.exit_code == 2 and said in refused.stderr and "Traceback" not in refused.stderr
    assert not (files / "store").exists()


def test_without_a_sentence_encoder_the_way_out_is_an_option_of_this_command(files, taught_base, monkeypatch):
    encoders = "asu_lora.evaluation.metrics.cosine_similarity."
    monkeypatch.setattr(f"{encoders}DEFAULT_ENCODER", "./nowhere")
    monkeypatch.setattr(f"{encoders}packaged_encoder", lambda: None)
    refused = forget(
        files, taught_base, "--retain", "auto", "--retain-pool", str(files / "pool.jsonl"), "--retain-by", "encoder"
    )
    assert refused.exit_code == 2 and "leave --retain-by out" in refused.stderr and "--encoder" not in refused.stderr
