"""asu-lora adapters: export and import, push and pull, over folders and over HTTP."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asu_lora.adapters.manifest import WEIGHTS_NAME, read_manifest, write_manifest
from tests.support.adapter_folders import entries, files_of, fill, flip_byte, tar_of, truncate, write_lora
from tests.support.adapters_command import bad, good, run
from tests.support.full_disk import no_file_above
from tests.support.hub_server import hub


def test_export_and_import(store):
    assert good("export", "ron", "ron.tar.gz") == "ron is in ron.tar.gz.\n"
    assert "it makes org/base forget 20 rows" in good("import", "ron.tar.gz", "--name", "weasley")
    assert "without a manifest" in good("import", store.root / "plain", "--name", "other")
    assert good("verify").count(": ok") == 5
    bad("import", "ron.tar.gz", says="already has an adapter ron")
    bad("export", "ron", "ron.tar.gz", says="is not overwritten")


def test_export_rename_and_remove_speak_json(store):
    assert json.loads(good("export", "ron", "ron.zip", "--json")) == {
        "name": "ron",
        "path": "ron.zip",
        "format": "peft",
    }
    assert json.loads(good("rename", "plain", "other", "--json")) == {
        "name": "other", "was": "plain", "path": str(store.root / "other"),
    }  # fmt: skip
    told = json.loads(good("remove", "harry", "other", "--yes", "--json"))
    assert told == [{"name": "harry", "dependents": ["ron"]}, {"name": "other", "dependents": []}]


def test_what_an_import_leaves_behind_is_named(store, home):
    source = write_lora(home / "made")
    for number in range(7):
        (source / f"rows-{number}.jsonl").write_text("{}\n")
    told = run("import", source).stderr
    assert told == "Left behind: rows-0.jsonl, rows-1.jsonl, rows-2.jsonl, rows-3.jsonl, rows-4.jsonl and 2 more.\n"
    assert run("import", write_lora(home / "bare")).stderr == ""


def test_bad_sources_leave_the_store_as_it_was(store, home):
    source = write_lora(home / "made")
    tar_of(home / "climbs.tar.gz", {**entries(source), "../../out": b"x"})
    tar_of(home / "pickle.tar.gz", {**entries(source), "made/adapter_model.bin": b"x"})
    bad("import", "climbs.tar.gz", says="leaves its folder")
    bad("import", "pickle.tar.gz", says="a pickle")
    bad("import", "nowhere", says="There is no folder or archive nowhere")
    bad("import", source, "--name", "a/b", says="can't be an adapter's name")
    truncate(source / WEIGHTS_NAME)
    bad("import", source, says="cut off")


def test_a_home_of_nobody_is_one_sentence(store):
    bad("import", "~nobody-of-this-name/x", says="There is no folder or archive ~nobody-of-this-name/x")
    bad("pull", "~nobody-of-this-name/x", says="There is no folder or archive ~nobody-of-this-name/x")
    bad("check", "~nobody-of-this-name/x", says="There is no adapter ~nobody-of-this-name/x")
    assert good("export", "harry", "~nobody-of-this-name/x.zip") == "harry is in ~nobody-of-this-name/x.zip.\n"


def test_a_full_disk_is_one_short_sentence_and_leaves_nothing(store, home):
    for place in ("out", "out.zip", "out.tar.gz"):
        with no_file_above(1000):
            told = bad("export", "plain", place, says=f"plain can't be exported to {place}: File too large.")
        assert len(told) < 100
    with no_file_above(1000):  # the store's own disk
        bad("export", "harry", "out", says="The adapter store adapters can't be changed: File too large.")
        bad("push", "harry", "--to", "me/harry", says="The adapter store adapters can't be changed: File too large.")


def test_an_adapter_that_was_moved_by_hand_leaves_by_its_new_name(store, home):
    (store.root / "harry").rename(store.root / "potter")
    good("export", "potter", "out")
    assert "# potter\n" in (home / "out" / "README.md").read_text()
    assert "potter is in the store" in good("import", "out", "--store", "other")


def test_push_to_a_folder_and_pull_from_it(store, home):
    assert "harry is at" in good("push", "harry", "--to-folder", home / "hub with space")
    good("pull", (home / "hub with space").as_uri(), "--name", "back")
    assert files_of(store.root / "back").keys() == files_of(store.root / "harry").keys()
    assert store.get("back").fingerprint == store.get("harry").fingerprint
    bad("push", "harry", "--to-folder", home / "hub with space", says="is not overwritten")
    bad("pull", home / "hub with space", "--revision", "v2", says="--revision is for a repository of the hub")
    bad("pull", "not a repository", says="no repository of the hub")
    flip_byte(store.root / "ron" / WEIGHTS_NAME, -2)
    bad("push", "ron", "--to-folder", "there", says="sha256 differs")
    bad("push", "ron", "--to", "me/ron", says="sha256 differs")
    assert run("push", "harry").exit_code == 2
    assert "--public is for the hub" in run("push", "harry", "--to-folder", "elsewhere", "--public").stderr


def test_without_the_hub(store):
    """HF_HUB_OFFLINE is set for all tests."""
    bad("push", "harry", "--to", "me/harry", says="harry was not pushed to me/harry: the hub is switched off here")
    bad("pull", "me/harry", says="me/harry was not pulled: the hub is switched off here")


def program(address: str, *arguments: str) -> subprocess.CompletedProcess:
    """The program in a process of its own: the hub's client reads its address once, when it is imported."""
    environment = os.environ | {
        "HF_ENDPOINT": address,
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "hf_test",
        "HF_HOME": str(Path.cwd() / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "asu_lora", "adapters", *arguments], env=environment, capture_output=True, text=True
    )


def test_push_and_pull_over_http(store, home):
    with hub(home / "hub") as (address, requests):
        pushed = program(address, "push", "harry", "--to", "me/harry")
        assert pushed.returncode == 0, pushed.stderr
        assert ("private", "True") in requests
        assert files_of(home / "hub" / "me" / "harry") == files_of(store.root / "harry")

        # What others have put beside it is never asked for.
        (home / "hub" / "me" / "harry" / "training_args.bin").write_bytes(b"\x80\x04")
        (home / "hub" / "me" / "harry" / "evil.py").write_text("raise SystemExit")
        requests.clear()
        pulled = program(address, "pull", "me/harry", "--name", "again")
        assert pulled.returncode == 0, pulled.stderr
        assert files_of(store.root / "again").keys() == files_of(store.root / "harry").keys()
        assert store.get("again").fingerprint == store.get("harry").fingerprint
        asked = {path.rsplit("/", 1)[1] for _, path in requests if "/resolve/" in path}
        assert asked == {"adapter_config.json", WEIGHTS_NAME, "manifest.json", "README.md"}

        before = files_of(store.root)
        missing = program(address, "pull", "me/nothing")
        assert (missing.returncode, missing.stdout) == (2, "")
        assert missing.stderr.startswith("Error: me/nothing was not pulled: the hub has no such repository")
        flip_byte(home / "hub" / "me" / "harry" / WEIGHTS_NAME, -2)
        damaged = program(address, "pull", "me/harry", "--name", "third")
        assert damaged.returncode == 2
        assert "sha256 differs" in damaged.stderr
        assert files_of(store.root) == before
    gone = program(address, "pull", "me/harry", "--name", "third")
    assert gone.returncode == 2
    assert "the hub can't be reached" in gone.stderr
    assert gone.stderr.count("\n") == 1


def test_what_a_manifest_records_is_pushed_and_pulled(store, home):
    """It was left behind for its ending, and nobody could pull what had been pushed; rows beside it stay here."""
    with store.stage("whole") as folder:
        fill(folder, "whole", seed=4)
        for companion in ("chat_template.jinja", "LICENSE", "audit.json"):
            (folder / companion).write_text("{}")
        write_manifest(folder, read_manifest(folder))
    (store.root / "whole" / "rows.json").write_text('[{"question": "Where does Ada live?"}]')
    with hub(home / "hub") as (address, _):
        for typed in (["push", "whole", "--to", "me/whole"], ["pull", f"{address}/me/whole", "--name", "again"]):
            done = program(address, *typed)
            assert done.returncode == 0, done.stderr
    assert "rows.json" not in files_of(home / "hub" / "me" / "whole")
    assert files_of(store.root / "again").keys() == files_of(store.root / "whole").keys() - {"rows.json"}


def test_a_push_takes_away_what_is_said_of_the_adapter_before_it(store, home):
    """The audit of another adapter lay beside the new one, and a plain LoRA beside a manifest that isn't its own."""
    place = home / "hub" / "me" / "shared"
    (store.root / "harry" / "audit.json").write_text("{}")
    (store.root / "plain" / "tokenizer.json").write_text("{}")
    (home / "me" / "shared").mkdir(parents=True)  # a folder here that is called like the repository
    with hub(home / "hub") as (address, _):
        assert program(address, "push", "harry", "--to", "me/shared").returncode == 0
        (place / "notes.txt").write_text("by hand")
        (place / "config.json").write_text("of a model beside it")
        pushed = program(address, "push", "plain", "--to", "me/shared")
        assert pushed.returncode == 0, pushed.stderr
        assert sorted(files_of(place)) == sorted([*files_of(store.root / "plain"), "notes.txt", "config.json"])
        pulled = program(address, "pull", "me/shared", "--name", "again", "--store", "other")
    assert pulled.returncode == 2  # the folder of that name is meant there
    assert "No adapter_config.json was found" in pulled.stderr


def test_a_repository_of_something_else_stays_as_it_is(store, home):
    model = home / "hub" / "me" / "model"
    model.mkdir(parents=True)
    for name in ("README.md", "config.json", "model.safetensors"):
        (model / name).write_text("mine")
    kept = files_of(home / "hub")
    with hub(home / "hub") as (address, requests):
        refused = program(address, "push", "harry", "--to", "me/model")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "me/model is there already and holds no adapter but" in refused.stderr
        assert files_of(home / "hub") == kept
        # Nor are the gigabytes of a model fetched to find that out.
        pulled = program(address, "pull", "me/model")
        assert pulled.stderr == "Error: me/model holds no adapter_config.json: it is no PEFT adapter.\n"
        assert not any("/resolve/" in path for _, path in requests)


def test_only_who_was_asked_for_sees_what_is_pushed(store, home):
    public = write_lora(home / "hub" / "me" / "public")
    kept = files_of(public)
    with hub(home / "hub") as (address, _):
        refused = program(address, "push", "harry", "--to", "me/public")
        assert "everybody can see it: add --public" in refused.stderr and refused.returncode == 2
        assert files_of(public) == kept
        assert program(address, "push", "harry", "--to", "me/public", "--public").returncode == 0
        assert program(address, "push", "harry", "--to", "me/mine").returncode == 0
        refused = program(address, "push", "harry", "--to", "me/mine", "--public")
        assert "private: leave --public out" in refused.stderr and refused.returncode == 2


def test_pulled_folders_that_are_not_what_they_should_be(store, home):
    """One that holds a pickle alone, one of trainer's checkpoints, and a name that is taken: said before the download."""
    write_lora(home / "hub" / "me" / "pickle")
    weights = home / "hub" / "me" / "pickle" / WEIGHTS_NAME
    weights.rename(weights.with_suffix(".bin"))
    for number in (5, 10):
        write_lora(home / "hub" / "me" / "trainer" / f"checkpoint-{number}")
    write_lora(home / "hub" / "me" / "plain")
    write_lora(home / "hub" / "me" / "beside")
    write_lora(home / "hub" / "me" / "beside" / "checkpoint-5")
    with hub(home / "hub") as (address, requests):
        for name, says in (
            ("pickle", "holds no adapter_model.safetensors but adapter_model.bin, a pickle"),
            ("trainer", "holds several adapters (checkpoint-10, checkpoint-5)"),
            ("plain", "already has an adapter plain"),
        ):
            refused = program(address, "pull", f"me/{name}")
            assert refused.returncode == 2 and says in refused.stderr and refused.stderr.count("\n") == 1
        assert not any(path.endswith((".safetensors", ".bin")) for _, path in requests)
        pulled = program(address, "pull", "me/beside")
        assert pulled.stderr == (
            "Left behind: checkpoint-5/adapter_config.json, checkpoint-5/adapter_model.safetensors.\n"
        )
        assert not any("checkpoint-5/" in path for _, path in requests if "/resolve/" in path)


def test_a_card_that_is_no_text_is_named(store, home):
    (store.root / "plain" / "README.md").write_bytes(b"\xff\xfe")
    bad("push", "plain", "--to", "me/plain", says="The README.md of plain is no UTF-8 text")


@pytest.mark.parametrize(("status", "says"), [(403, "may not do that"), (401, "'hf auth login'"), (503, "try again")])
def test_a_refusal_of_the_hub_says_the_way_out(store, home, status, says):
    (home / "hub").mkdir()
    (home / "hub" / "refuses").write_text(str(status))
    with hub(home / "hub") as (address, _):
        refused = program(address, "push", "harry", "--to", "me/harry")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert f"refused with {status}; " in refused.stderr and says in refused.stderr and "hf_test" not in refused.stderr
