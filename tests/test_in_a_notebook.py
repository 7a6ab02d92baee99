"""The library as people use it in a notebook: paths for names, one adapter without a list, results shown, threads."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import asu_lora
from asu_lora.adapters.manifest import read_manifest
from asu_lora.audit import AuditRequest
from asu_lora.errors import BaseModelError, SettingError, StoreError
from asu_lora.forgetting.dry_run import plan_run
from asu_lora.models.loading import load_base
from tests.support.tiny_run import rows, tiny_request, tiny_settings

QUESTION = rows()[0]["question"]


@pytest.fixture(scope="module")
def made(taught_base, tmp_path_factory):
    """A run on a base that is given as a path, as ``pathlib`` has it."""
    store = tmp_path_factory.mktemp("store")
    settings = tiny_settings(epochs=1, eval_rows=2)
    return asu_lora.forget(tiny_request(), Path(taught_base), settings, name="ticket", store=store), store


def test_a_base_may_be_given_as_a_path(made, taught_base):
    assert read_manifest(made[0].path).base.id == str(taught_base)


def test_what_a_notebook_shows_of_a_result_holds_no_row_and_no_model(made, base):
    result, store = made
    loaded = asu_lora.load(base, ["ticket"], store)
    for shown in (repr(result), repr(loaded), repr(base)):
        assert "Linear" not in shown and len(shown) < 2000
        assert not any(row["answer"] in shown or row["question"] in shown for row in rows())
    assert "'forget_probability'" in repr(result) and "('ticket', 1.0)" in repr(loaded)
    loaded.unload()


def test_one_adapter_and_one_question_need_no_list(made, base):
    loaded = asu_lora.load(base, "ticket", made[1])
    assert loaded.adapters == [("ticket", 1.0)]
    assert loaded.ask(QUESTION) == loaded.ask([QUESTION])
    loaded.unload()
    on_top = asu_lora.forget(
        tiny_request(), base, tiny_settings(epochs=1), name="next", store=made[1], on_top_of="ticket:0.5"
    )
    assert [(beneath.name, beneath.weight) for beneath in read_manifest(on_top.path).on_top_of] == [("ticket", 0.5)]
    assert AuditRequest(rows(), adapters="ticket").adapters == ("ticket",)


def test_what_is_given_in_place_of_something_else_is_said_in_one_sentence(base, tmp_path):
    for request, config, match in (
        (rows(), None, r"ForgetRequest, and no list: ForgetRequest.from_rows"),
        ("request.jsonl", None, "and no str"),
        (tiny_request(), {"epochs": 1}, r"ForgetConfig\(...\), and no dict"),
    ):
        with pytest.raises(SettingError, match=match):
            asu_lora.forget(request, base, config, store=tmp_path)
    for model in (base.model, (base.model, base.tokenizer)):
        with pytest.raises(BaseModelError, match="named by its hub id or folder.*name what it was loaded from"):
            asu_lora.load(model, store=tmp_path)


def test_two_threads_load_a_base_at_once(taught_base, base):
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            for loaded in pool.map(lambda _: load_base(taught_base, "fp32", "cpu"), range(2)):
                theirs, ours = loaded.model.state_dict(), base.model.state_dict()
                assert theirs.keys() == ours.keys() and all((theirs[name] == ours[name]).all() for name in ours)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_store_that_is_read_only_is_refused_before_anything_is_loaded(taught_base, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    for store in (tmp_path / "closed", tmp_path / "closed" / "adapters"):
        with pytest.raises(StoreError, match="can't be changed: Permission denied"):
            asu_lora.forget(tiny_request(), "/nowhere", tiny_settings(), store=store)
        with pytest.raises(StoreError, match="can't be changed: Permission denied"):
            plan_run(tiny_request(), str(taught_base), tiny_settings(), name="a", store=store)


def test_without_a_stdout_commands_work(tmp_path):
    """A shell's ``>&-``, and some services."""
    command = f"{sys.executable} -m asu_lora adapters list --store {tmp_path} >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_and_a_stack_warn_of_nothing_that_libraries_do_among_themselves(base, tmp_path, recwarn):
    """PEFT calls gradient checkpointing by a name that transformers has given up."""
    asu_lora.forget(tiny_request(2, 2), base, tiny_settings(epochs=1, gradient_checkpointing=True), store=tmp_path)
    asu_lora.load(base, ["tiny"], tmp_path).unload()
    assert not [str(each.message) for each in recwarn if "checkpointing" in str(each.message)]
