"""What leaves the store tells nothing of the machine, and its hash of the request confirms no guess."""

import hashlib
import json
import os
import tarfile

import pytest

from asu_lora.adapters.manifest import BaseRecord, RequestRecord, read_manifest
from asu_lora.adapters.model_card import public_base_name
from asu_lora.adapters.push_pull import push
from asu_lora.adapters.request_key import KEY_NAME
from asu_lora.adapters.store import AdapterStore
from asu_lora.adapters.verify import verify_adapter
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import AdapterError
from tests.support.adapter_folders import add, files_of, fill, write_lora

REQUEST = ForgetRequest.from_rows([{"question": "Where does Ada live?", "answer": "In Springfield."}], [])


@pytest.fixture
def place(tmp_path):
    """A base in a folder whose path names a person."""
    folder = tmp_path / "home" / "ada-example" / "tuned-base"
    folder.mkdir(parents=True)
    return folder


def store_with(tmp_path, place, fingerprint=None):
    """One adapter that was made on the base in ``place``."""
    from asu_lora.adapters.manifest import write_manifest
    from asu_lora.adapters.model_card import write_model_card

    store = AdapterStore(tmp_path / "store")
    with store.stage("a") as folder:
        fill(folder, "a")
        write_lora(folder, base_model_name_or_path=str(place))
        manifest = read_manifest(folder)
        manifest = manifest.model_copy(
            update={
                "base": BaseRecord(id=str(place), fingerprint="ba5e" * 16, precision="fp32"),
                "request": RequestRecord(fingerprint=fingerprint or store.keyed(REQUEST.fingerprint()), forget_rows=1),
            }
        )
        write_model_card(folder, manifest)
        write_manifest(folder, manifest)
    return store


@pytest.mark.parametrize("way", ["folder", "archive", "pushed"])
@pytest.mark.parametrize("relative", [False, True])
def test_no_path_leaves_the_store(tmp_path, place, way, relative, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = store_with(tmp_path, place.relative_to(tmp_path) if relative else place)
    kept = files_of(store.root / "a")
    if way == "archive":
        with tarfile.open(store.export("a", tmp_path / "a.tar.gz")) as archive:
            archive.extractall(tmp_path / "out", filter="data")
        out = tmp_path / "out" / "a"
    else:
        out = tmp_path / "out"
        store.export("a", out) if way == "folder" else push(store, "a", out.as_uri())
    for name, content in files_of(out).items():
        assert b"ada-example" not in content and str(tmp_path).encode() not in content, name
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "tuned-base"
    manifest = read_manifest(out)
    assert (manifest.base.id, manifest.base.fingerprint) == ("tuned-base", "ba5e" * 16)
    assert "tuned-base" in (out / "README.md").read_text()
    assert verify_adapter(out).ok and files_of(store.root / "a") == kept
    AdapterStore(tmp_path / "other").import_(out, "b")


@pytest.mark.parametrize("relative", [False, True])
def test_nor_does_one_in_the_card_that_peft_wrote(tmp_path, place, relative, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = str(place.relative_to(tmp_path) if relative else place)
    store = AdapterStore(tmp_path / "store")
    with store.stage("a") as folder:
        write_lora(folder, base_model_name_or_path=base)
        card = f"---\nbase_model: {base}\ntags:\n- base_model:adapter:{base}\n- lora\n---\n# By hand: {base}/x \u00e9\n"
        (folder / "README.md").write_text(card, encoding="utf-8")
    kept = files_of(store.root / "a")
    out = store.export("a", tmp_path / "out")
    told = (out / "README.md").read_text(encoding="utf-8")
    assert (
        told == "---\ntags:\n- lora\n---\n# By hand: tuned-base/x \u00e9\n"
    )  # the hub refuses a base that is no id of its own
    assert "ada-example" not in (out / "adapter_config.json").read_text()
    assert files_of(store.root / "a") == kept


def test_a_hub_id_stays_and_a_path_gives_its_last_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert public_base_name("org/base") == "org/base" and public_base_name("smollm2-135m") == "smollm2-135m"
    for path in ("models/mine", "/data/people/mine", "../people/mine", r"C:\people\mine", "~/people/mine/"):
        assert public_base_name(path) == "mine"


def test_a_read_only_store_exports_without_its_paths(tmp_path, place, monkeypatch):
    store = store_with(tmp_path, place)
    kept = files_of(store.root)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(store.root) and real(path, mode))
    out = store.export("a", tmp_path / "out")
    assert b"ada-example" not in b"".join(files_of(out).values())
    assert files_of(store.root) == kept


def test_a_guessed_row_is_not_confirmed_by_what_is_exported(tmp_path, place):
    """Also not from an older adapter, whose manifest holds the plain hash."""
    plain = REQUEST.fingerprint()
    for number, recorded in enumerate((None, plain)):
        store = store_with(tmp_path / str(number), place, recorded)
        out = store.export("a", tmp_path / f"out-{number}")
        found = read_manifest(out).request.fingerprint
        key = b"none" if recorded else (store.root / KEY_NAME).read_bytes()
        guesses = [plain, plain.encode().hex(), hashlib.sha256(plain.encode()).hexdigest()]
        assert not any(guess in found for guess in guesses) and found.startswith("hmac-sha256:")
        assert store.is_request(found, plain) == (recorded is None) and not store.is_request(found, "0" * 64)
        assert not AdapterStore(tmp_path / "nowhere").is_request(found, plain)
        assert key not in b"".join(files_of(out).values()) and key.hex() not in str(files_of(out))


def test_the_secret_is_made_once_and_is_its_owners_alone(tmp_path):
    store = AdapterStore(tmp_path / "store")
    one = store.keyed("a" * 64)
    assert store.keyed("a" * 64) == one == AdapterStore(tmp_path / "store").keyed("a" * 64)
    assert store.keyed(one) == one and store.keyed("b" * 64) != one
    assert AdapterStore(tmp_path / "another").keyed("a" * 64) != one
    assert store.names() == [] and os.listdir(store.root).count(KEY_NAME) == 1
    if os.name != "nt":
        assert (store.root / KEY_NAME).stat().st_mode & 0o777 == 0o600


def test_an_older_manifest_with_a_plain_hash_is_still_known(tmp_path):
    store = AdapterStore(tmp_path / "store")
    assert store.is_request(REQUEST.fingerprint(), REQUEST.fingerprint())
    assert not store.is_request("0" * 64, REQUEST.fingerprint())


@pytest.mark.parametrize("file", ["vocab.txt", "adapter_model.safetensors", "adapter_config.json", "manifest.json"])
def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path, file):
    secret = tmp_path / "outside"
    folder = fill(tmp_path / "a", "a")
    if (folder / file).exists():
        os.rename(folder / file, secret)
    else:
        secret.write_text("nobody's business")
    (folder / file).symlink_to(secret)
    store = AdapterStore(tmp_path / "store")
    with pytest.raises(AdapterError, match=f"{file}, a link that leads out"):
        store.import_(folder)
    assert store.names() == []


def test_a_link_in_a_stored_folder_is_neither_exported_nor_pushed(tmp_path):
    store = AdapterStore(tmp_path / "store")
    add(store, "a")
    (tmp_path / "outside").write_text("nobody's business")
    (store.root / "a" / "notes.txt").symlink_to(tmp_path / "outside")
    for use in (lambda: store.export("a", tmp_path / "a.zip"), lambda: push(store, "a", (tmp_path / "p").as_uri())):
        with pytest.raises(AdapterError, match="leads out"):
            use()
    assert not (tmp_path / "a.zip").exists() and not (tmp_path / "p").exists()
