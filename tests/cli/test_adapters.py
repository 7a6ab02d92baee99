"""``asu-lora adapters``, driven as a person drives it: what it prints, its exit codes, and what it changes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from asu_lora.adapters.manifest import WEIGHTS_NAME, write_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.bases.fingerprint import earlier_fingerprint, weights_fingerprint
from asu_lora.cli import main
from tests.support.adapter_folders import (
    add,
    entries,
    files_of,
    flip_byte,
    manifest_for,
    on,
    tar_of,
    truncate,
    write_lora,
)
from tests.support.hub_server import hub


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASU_LORA_STORE", raising=False)
    return tmp_path


@pytest.fixture
def store(home) -> AdapterStore:
    """Two adapters, one on top of the other, and a plain LoRA, in the default store."""
    store = AdapterStore("adapters")
    add(store, "harry", seed=1)
    add(store, "ron", seed=2, on_top_of=[on(store, "harry", 0.5)])
    write_lora(store.root / "plain", seed=3)
    return store


def run(*arguments, **kwargs) -> Result:
    return CliRunner().invoke(main, ["adapters", *map(str, arguments)], **kwargs)


def good(*arguments, **kwargs) -> str:
    result = run(*arguments, **kwargs)
    assert result.exit_code == 0, result.output
    return result.stdout


def bad(*arguments, says: str) -> str:
    """One sentence on stderr, exit code 2, no traceback, the folder as it was."""
    before = files_of(Path.cwd())
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert files_of(Path.cwd()) == before
    return result.stderr


# ---- list and show


def test_list_has_a_line_an_adapter(store):
    header, *lines = good("list").splitlines()
    assert header.split() == ["Name", "Rows", "Base", "Method", "Made", "Size", "Forget", "State"]
    words = [line.split() for line in lines]
    assert [line[0] for line in words] == ["harry", "plain", "ron"]
    assert words[0][1:6] == ["20", "base", "asu,", "tau", "2"]
    assert words[0][6] == store.get("harry").manifest.created[:10]
    assert words[0][8:] == ["kB", "0.99", "->", "0.08", "ready"]
    assert words[1][-1] == "imported"


def test_list_says_why_an_adapter_is_broken(store):
    truncate(store.root / "ron" / WEIGHTS_NAME)
    output = good("list")
    assert "broken" in next(line for line in output.splitlines() if line.startswith("ron"))
    assert "ron is broken: adapter_model.safetensors is cut off" in output


def test_list_as_json(store):
    found = {adapter["name"]: adapter for adapter in json.loads(good("list", "--json"))}
    assert found["ron"]["manifest"]["on_top_of"][0]["name"] == "harry"
    assert found["plain"]["state"] == "imported"


def test_an_empty_store_says_what_fills_it(home):
    assert "asu-lora forget" in good("list")
    assert json.loads(good("list", "--json")) == []
    assert "nothing to verify" in good("verify")
    assert list(home.iterdir()) == []


def test_the_store_can_lie_elsewhere(store, home):
    os.rename(home / "adapters", home / "kept")
    assert "harry" not in good("list")
    assert "harry" in good("list", "--store", "kept")
    assert "harry" in good("list", env={"ASU_LORA_STORE": "kept"})


def test_show_tells_everything(store):
    output = good("show", "harry")
    for expected in (
        "asu, tau 2",
        "auto",
        "org/base",
        "20 rows, 400 answer tokens",
        "Answer probability, forget set",
        "0.991",
        "0.082",
        "tau curve",
        "0.7",
        "ron (trained on top of this one)",
    ):
        assert expected in output
    assert "harry at weight 0.5" in good("show", "ron")
    assert json.loads(good("show", "harry", "--json"))["trained_on_top_of_it"] == ["ron"]
    assert "q_proj, v_proj" in good("show", "plain")
    store.remove("harry")
    assert "not in the store any more" in good("show", "ron")


def test_unknown_names(store):
    for command in ("show", "verify", "remove"):
        assert "did you mean harry?" in bad(command, "hary", says="There is no adapter hary")
    bad("rename", "hary", "x", says="There is no adapter hary")
    bad("export", "hary", "x.zip", says="There is no adapter hary")
    bad("push", "hary", "--to-folder", "x", says="There is no adapter hary")


# ---- verify


def test_verify_exits_with_2_if_any_is_bad(store):
    assert good("verify").count(": ok") == 3
    flip_byte(store.root / "ron" / WEIGHTS_NAME, -2)
    result = run("verify")
    assert result.exit_code == 2
    assert result.stdout.count(": ok") == 2
    assert "ron: BAD\n  checksums: adapter_model.safetensors is not the file that was recorded" in result.stdout
    assert good("verify", "harry", "plain").count(": ok") == 2
    result = run("verify", "--json")
    assert result.exit_code == 2
    assert {report["adapter"]: report["ok"] for report in json.loads(result.stdout)} == {
        "harry": True,
        "plain": True,
        "ron": False,
    }


def test_verify_against_a_base(store, tiny_base):
    fingerprint = weights_fingerprint(tiny_base)
    record = store.get("harry").manifest.base.model_copy(update={"fingerprint": fingerprint})
    with store.stage("fits") as folder:
        write_lora(folder)
        write_manifest(folder, manifest_for("fits", base=record))
    assert "fits: ok" in good("verify", "fits", "--base", tiny_base)
    result = run("verify", "harry", "--base", tiny_base)
    assert result.exit_code == 2
    assert "other weights, whatever their name" in result.stdout
    bad("verify", "--base", "no/such/base/anywhere", says="no/such/base/anywhere")


def test_verify_knows_the_fingerprint_that_an_earlier_program_gave_a_folder_of_two_copies(store, tiny_base, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "two")
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    earlier = earlier_fingerprint(folder)
    record = store.get("harry").manifest.base.model_copy(update={"fingerprint": earlier})
    with store.stage("fits") as staged:
        write_lora(staged)
        write_manifest(staged, manifest_for("fits", base=record))
    assert earlier != weights_fingerprint(folder) and "fits: ok" in good("verify", "fits", "--base", folder)
    assert run("verify", "harry", "--base", folder).exit_code == 2


# ---- rename and remove


def test_rename(store):
    assert good("rename", "harry", "potter") == "harry is now potter.\n"
    assert "potter at weight 0.5" in good("show", "ron")
    assert good("verify").count(": ok") == 3
    bad("rename", "potter", "ron", says="already has an adapter ron")
    bad("rename", "potter", "../out", says="can't be an adapter's name")


def test_remove_asks_and_warns_of_those_above(store):
    others = files_of(store.root / "ron")
    result = run("remove", "harry", input="n\n")
    assert result.exit_code == 1
    assert "Remove harry from adapters? [y/N]" in result.stderr
    assert store.names() == ["harry", "plain", "ron"]
    result = run("remove", "harry", input="y\n")
    assert result.exit_code == 0
    assert "Warning: trained on top of harry: ron. Train it again afterwards" in result.stderr
    assert store.names() == ["plain", "ron"]
    assert files_of(store.root / "ron") == others


def test_remove_several_without_asking(store):
    result = run("remove", "harry", "ron", "harry", "--yes")
    assert result.output == "Removed harry.\nRemoved ron.\n"
    assert store.names() == ["plain"]


def test_one_unknown_name_and_none_is_removed(store):
    bad("remove", "harry", "nobody", "--yes", says="There is no adapter nobody")


# ---- in and out


def test_export_and_import(store):
    assert good("export", "ron", "ron.tar.gz") == "ron is in ron.tar.gz.\n"
    assert "it makes org/base forget 20 rows" in good("import", "ron.tar.gz", "--name", "weasley")
    assert "without a manifest" in good("import", store.root / "plain", "--name", "other")
    assert good("verify").count(": ok") == 5
    bad("import", "ron.tar.gz", says="already has an adapter ron")
    bad("export", "ron", "ron.tar.gz", says="is not overwritten")


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


def test_push_to_a_folder_and_pull_from_it(store, home):
    assert "harry is at" in good("push", "harry", "--to-folder", home / "hub with space")
    good("pull", (home / "hub with space").as_uri(), "--name", "back")
    assert files_of(store.root / "back").keys() == files_of(store.root / "harry").keys()
    assert store.get("back").fingerprint == store.get("harry").fingerprint
    bad("push", "harry", "--to-folder", home / "hub with space", says="is not overwritten")
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


# ---- help


def test_every_command_explains_itself(home):
    commands = ("list", "show", "verify", "rename", "remove", "import", "export", "push", "pull", "combine")
    overview = good("--help")
    for command in commands:
        assert f"\n  {command} " in overview
        assert "--store" in good(command, "--help")


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from asu_lora.cli import main\n"
        "try: main(['adapters', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'huggingface_hub', 'pydantic', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)
