"""The manifest and the model card: what is written, what is refused, and that no text gets in."""

import hashlib
import json

import pytest
import yaml
from pydantic import ValidationError

from asu_lora.adapters.manifest import (
    MANIFEST_NAME,
    FiguresRecord,
    MethodRecord,
    RequestRecord,
    StackedOn,
    fingerprint_of,
    read_manifest,
    write_manifest,
)
from asu_lora.adapters.model_card import restate, write_model_card
from asu_lora.errors import AdapterError
from tests.support.adapter_folders import fill, manifest_for, write_lora


def test_what_is_written_is_read(tmp_path):
    folder = write_lora(tmp_path / "a")
    written = write_manifest(folder, manifest_for("a", [StackedOn(name="b", fingerprint="c", weight=0.5)]))
    assert read_manifest(folder) == written
    assert written.created.endswith("Z")


def test_files_are_recorded_with_their_sha256(tmp_path):
    folder = fill(tmp_path / "a", "a")
    (folder / ".hidden").write_text("not part of it")
    manifest = write_manifest(folder, read_manifest(folder))
    expected = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("adapter_config.json", "adapter_model.safetensors", "README.md")
    }
    assert manifest.files == expected
    assert manifest.fingerprint == fingerprint_of(folder) == expected["adapter_model.safetensors"]


def test_a_time_is_kept_in_utc():
    assert manifest_for("a", created="2026-05-01T02:30:00+02:00").created == "2026-05-01T00:30:00Z"


def test_text_has_no_place_in_figures_curve_or_request():
    text = "Harry went to Hogwarts."
    for attempt in (
        lambda: FiguresRecord(before={"answer": text}),
        lambda: MethodRecord(objective="asu", tau_curve=[{"tau": 2.0, "answer": text}]),
        lambda: RequestRecord(fingerprint="f", forget_rows=1, counts={"answer": text}),
        lambda: RequestRecord(fingerprint="f", forget_rows=1, questions=[text]),
    ):
        with pytest.raises(ValidationError):
            attempt()


def test_a_figure_that_could_not_be_measured_is_null_in_json(tmp_path):
    folder = write_lora(tmp_path / "a")
    write_manifest(folder, manifest_for("a", figures={"after": {"forget_probability": float("nan"), "n": 3}}))
    text = (folder / MANIFEST_NAME).read_text()
    assert "NaN" not in text
    assert json.loads(text)["figures"]["after"] == {"forget_probability": None, "n": 3}
    assert read_manifest(folder).figures.after["forget_probability"] is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a manifest"),
        ('{"format_version": 1, "name": "a"}', "is not a manifest: base"),
        ('{"format_version": 99}', "upgrade asu-lora"),
    ],
)
def test_a_manifest_that_can_not_be_used_is_refused(tmp_path, content, says):
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(AdapterError, match=says) as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_manifest_is_said(tmp_path):
    with pytest.raises(AdapterError, match=r"has no manifest\.json"):
        read_manifest(tmp_path)


def test_the_card_has_front_matter_figures_and_the_way_to_use_it(tmp_path):
    folder = write_lora(tmp_path / "a")
    write_model_card(folder, manifest_for("a", [StackedOn(name="below", fingerprint="c" * 64, weight=0.5)]))
    text = (folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["base_model"] == "org/base"
    assert front["library_name"] == "peft"
    assert "machine-unlearning" in front["tags"]
    assert "forget 20 rows (400 answer tokens), while it keeps 80 others." in body
    assert "| Answer probability, forget set | 0.991 | 0.082 |" in body
    assert "| Empty answers | 0 | 1 |" in body
    assert "PeftModel.from_pretrained" in body
    assert "--adapter a" in body
    assert "`below` at weight 0.5" in body


def test_a_base_on_this_disk_is_not_given_away(tmp_path):
    base = tmp_path / "home" / "someone" / "model"
    base.mkdir(parents=True)
    record = manifest_for("a").base.model_copy(update={"id": str(base)})
    write_model_card(tmp_path, manifest_for("a", base=record))
    text = (tmp_path / "README.md").read_text()
    assert "someone" not in text
    assert "base_model" not in text


def test_the_use_in_the_card_is_python(tmp_path):
    for quantization in (None, {"bnb_4bit_quant_type": "nf4"}):
        record = manifest_for("a").base.model_copy(update={"quantization": quantization, "revision": "abc"})
        write_model_card(tmp_path, manifest_for("a", base=record))
        code = (tmp_path / "README.md").read_text().split("```python\n")[1].split("```")[0]
        compile(code, "card", "exec")
        assert ("BitsAndBytesConfig(" in code) == (quantization is not None)


def test_restating_keeps_the_checksums_of_damaged_files(tmp_path):
    folder = fill(tmp_path / "a", "a")
    before = read_manifest(folder).files
    (folder / "adapter_config.json").write_text("{}")
    (folder / MANIFEST_NAME).write_text(restate(folder, read_manifest(folder))[MANIFEST_NAME])
    assert read_manifest(folder).files == before


def test_restating_leaves_an_edited_card_alone(tmp_path):
    folder = fill(tmp_path / "a", "a")
    assert "# b\n" in restate(folder, manifest_for("b", files=read_manifest(folder).files))["README.md"]
    (folder / "README.md").write_text("mine")
    assert "README.md" not in restate(folder, read_manifest(folder))
