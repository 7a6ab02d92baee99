"""asu-lora adapters: export and import, push and pull, over folders and over HTTP."""

import json
import os
import subprocess
import sys
from pathlib import Path

from asu_lora.adapters.manifest import WEIGHTS_NAME
from tests.support.adapter_folders import entries, files_of, flip_byte, tar_of, truncate, write_lora
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
