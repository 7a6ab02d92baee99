"""``asu-lora adapters``, driven as a person drives it: what it prints, its exit codes, and what it changes."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from asu_lora.adapters.manifest import WEIGHTS_NAME, write_manifest
from asu_lora.bases.fingerprint import earlier_fingerprint, weights_fingerprint
from tests.support.adapter_folders import files_of, flip_byte, manifest_for, truncate, write_lora
from tests.support.adapters_command import bad, good, run

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


def test_json_has_no_word_for_what_is_no_number(store, tmp_path):
    store.import_(write_lora(tmp_path / "odd", 4, eva_config={"rho": float("nan")}), "odd")
    for words in (("list", "--json"), ("show", "odd", "--json")):
        told = json.loads(good(*words), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        [odd] = [each for each in (told if isinstance(told, list) else [told]) if each["name"] == "odd"]
        assert odd["adapter_config"]["eva_config"] == {"rho": None}


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


def test_a_link_out_of_one_adapter_leaves_the_others_verified(store, home):
    write_lora(home / "made")
    (store.root / "ron" / "README.md").unlink()
    (store.root / "ron" / "README.md").symlink_to(home / "made" / "adapter_config.json")
    result = run("verify")
    assert result.exit_code == 2 and result.stdout.count(": ok") == 2
    assert "ron: BAD\n  files: ron holds README.md, a link that leads out of the folder" in result.stdout
    found = {report["adapter"]: report["ok"] for report in json.loads(run("verify", "--json").stdout)}
    assert found == {"harry": True, "plain": True, "ron": False}


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
    result = run("remove", "harry")  # of a script, which has nobody to ask
    assert result.exit_code == 2
    assert result.stderr.endswith("\nError: Nobody answered, and nothing was removed: --yes does it without asking.\n")
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
