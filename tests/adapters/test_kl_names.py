"""The retain loss kl of earlier adapters and interrupted runs is the divergence in the answers."""

from asu_lora.adapters.manifest import EVERY_POSITION, MethodRecord, read_manifest, write_manifest
from asu_lora.config import ForgetConfig
from tests.support.adapter_folders import manifest_for, write_lora


def test_a_manifest_of_an_earlier_version_means_the_answers(tmp_path):
    folder = write_lora(tmp_path / "a")
    write_manifest(folder, manifest_for("a"))
    text = (folder / "manifest.json").read_text().replace('"retain_loss": "kl-answers"', '"retain_loss": "kl"')
    assert '"retain_loss": "kl"' in text
    (folder / "manifest.json").write_text(text)
    assert read_manifest(folder).method.retain_loss == "kl-answers"


def test_a_new_kl_is_one_at_every_position():
    found = MethodRecord(objective="asu", retain_loss="kl", details={"kl": EVERY_POSITION})
    assert MethodRecord.model_validate_json(found.model_dump_json()).retain_loss == "kl"
    assert MethodRecord(objective="asu", retain_loss="gd").retain_loss == "gd"


def test_an_interrupted_run_of_an_earlier_version_goes_on_with_the_answers():
    assert ForgetConfig().retain_loss == "kl-answers" and ForgetConfig().identity()["retain_loss"] == "kl"
    everywhere = ForgetConfig(retain_loss="kl").identity()["retain_loss"]
    assert everywhere not in ("kl", "kl-answers", ForgetConfig(retain_loss="gd").identity()["retain_loss"])
