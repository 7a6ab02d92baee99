"""Whatever is done to a certificate's file, it ends in one sentence; whatever it names, nothing outside is opened."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asu_lora.audit.certificate.canonical import canonical
from asu_lora.audit.certificate.signed import PREFIX, parse_signed, read_signed
from asu_lora.audit.certificate.signing_key import key_of_store, read_public_key
from asu_lora.audit.certificate.verify import Evidence, verify_certificate
from asu_lora.errors import CertificateError
from asu_lora.files import sha256_file
from tests.support.adapter_folders import folder_in_memory
from tests.support.audits import attacks
from tests.support.certificates import certified


@pytest.fixture(scope="module")
def made():
    with folder_in_memory() as folder:
        yield certified(folder, attacks()[3:5])  # one of each shape: with samples, with a control and curves


@pytest.fixture(scope="module")
def data(made) -> bytes:
    return made.issued.file.read_bytes()


def refused(data: bytes) -> str:
    with pytest.raises(CertificateError) as caught:
        parse_signed(data, "it.json")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def signed_anew(made, change) -> bytes:
    """What a forger with the key could write: the content changed, the signature right."""
    content = json.loads(made.issued.file.read_text())["certificate"]
    content = change(content) or content
    key = key_of_store(made.store)
    return canonical(
        {"certificate": content, "public_key": key.public, "signature": key.sign(PREFIX + canonical(content))}
    )


@settings(max_examples=250, deadline=None)
@given(place=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_any_byte_changed_is_found(data, place, flip):
    changed = bytearray(data)
    changed[place % len(data)] ^= flip
    refused(bytes(changed))


@settings(max_examples=80, deadline=None)
@given(place=st.integers(min_value=0), more=st.binary(min_size=1, max_size=8))
def test_anything_put_in_or_cut_off_is_found(data, place, more):
    place %= len(data)
    refused(data[:place])
    refused(data[:place] + more + data[place:])


@settings(max_examples=100, deadline=None)
@given(junk=st.binary(max_size=200))
def test_junk_is_no_certificate(junk):
    refused(junk)


def fields(value, path=()):
    """Every number, text and truth value in the content, by its path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from fields(inner, (*path, key))
    if not isinstance(value, dict | list):
        yield path, value


def test_each_field_changed_alone_is_found(data):
    envelope = json.loads(data)
    paths = list(fields(envelope))
    assert len(paths) > 100
    for path, value in paths:
        changed = json.loads(data)
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = "x" if value is None else value + "0" if isinstance(value, str) else value + 1
        refused(canonical(changed))


@pytest.mark.parametrize("name", ["certificate", "public_key", "signature"])
def test_each_part_left_out_is_found(data, name):
    envelope = json.loads(data)
    del envelope[name]
    said = refused(canonical(envelope))
    assert "not signed" in said or "no certificate" in said


def test_same_content_in_another_spelling_is_refused(data):
    envelope = json.loads(data)
    assert "canonical" in refused(json.dumps(envelope, indent=2).encode())
    assert "canonical" in refused(data + b"\n")
    assert "canonical" in refused(data.replace(b'"serial":1,', b'"serial":1.0,'))
    upper = envelope | {"signature": envelope["signature"].upper()}
    assert "not what was signed" in refused(canonical(upper))


@pytest.mark.parametrize(
    "text, says",
    [
        ('{"certificate":1,"certificate":1}', "twice"),
        ('{"certificate":NaN}', "NaN is no number"),
        ('{"certificate":-Infinity}', "no number"),
        ('{"certificate":1e999}', "canonical"),
        ('{"certificate":' + "9" * 5000 + "}", "JSON"),
        ('{"certificate":"\\ud800"}', "canonical"),
        ("[" * 100_000 + "]" * 100_000, "deep"),
        ('{"a":' * 300 + "1" + "}" * 300, "deep"),
        ("\ufeff{}", "JSON"),
        ("[]", "no certificate"),
        ("null", "no certificate"),
        ("{}", "no certificate"),
        ('{"certificate":{}}', "not signed"),
        ('{"certificate":{},"public_key":[],"signature":7}', "not signed"),
        ('{"certificate":{},"public_key":"zz","signature":""}', "not what was signed"),
    ],
    ids=range(15),
)
def test_odd_json_is_one_sentence(text, says):
    assert says in refused(text.encode("utf-8", "surrogatepass"))


def test_huge_file_is_not_read_to_its_end(tmp_path):
    with open(tmp_path / "huge.json", "wb") as file:
        file.truncate(1 << 40)  # a hole: a terabyte that takes no room
    with pytest.raises(CertificateError, match="more than 8 MiB"):
        read_signed(tmp_path / "huge.json")


def test_file_that_is_none_is_one_sentence(tmp_path):
    with pytest.raises(CertificateError, match="can't be read"):
        read_signed(tmp_path / "none.json")
    with pytest.raises(CertificateError, match="can't be read"):
        read_signed(tmp_path)
    with pytest.raises(CertificateError, match="can't be read"):
        read_signed(tmp_path / ("x" * 5000))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CertificateError, match="no file"):
        read_signed(tmp_path / "pipe")


BAD_NAMES = (
    "/etc/passwd", "../other/adapter_config.json", "a/../../b", "..", ".", "", "a//b", "./a", "~/a", "C:/a", "a\\b",
    "a\x00b", "a\nb", "a/", "x" * 301,
)  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=range(len(BAD_NAMES)))
def test_file_named_outside_its_folder_is_refused_even_if_rightly_signed(made, name):
    def change(content):
        content["done"]["adapters"][0]["files"] = {name: "0" * 64}

    assert "outside its folder" in refused(signed_anew(made, change))


def changed(**values):
    return lambda content: content.update(values)


@pytest.mark.parametrize(
    "change, says",
    [
        (changed(schema="another"), "not a certificate of an audit"),
        (changed(schema_version=2), "upgrade asu-lora"),
        (changed(schema_version="1"), "schema_version"),
        (changed(serial=0), "serial"),
        (changed(expires="2020-01-01T00:00:00Z"), "expires before"),
        (changed(issued="yesterday"), "issued"),
        (changed(extra="field"), "extra"),
        (changed(id="../../x"), "id"),
        (lambda content: content["done"]["adapters"][0].update(name="../x"), "no adapter's name"),
        (lambda content: [content], "not a certificate of an audit"),
    ],
    ids=range(10),
)
def test_rightly_signed_nonsense_is_one_sentence(made, change, says):
    assert says in refused(signed_anew(made, change))


def test_a_file_that_is_named_ten_thousand_times_is_hashed_once(made, tmp_path, monkeypatch):
    def change(content):
        [adapter] = content["done"]["adapters"]
        wrong = adapter | {"fingerprint": "0" * 64, "files": dict.fromkeys(adapter["files"], "0" * 64)}
        content["done"]["adapters"] = [wrong, adapter] * 500

    (tmp_path / "many.json").write_bytes(signed_anew(made, change))
    hashed = []
    monkeypatch.setattr(
        "asu_lora.audit.certificate.identity.sha256_file", lambda path: hashed.append(path) or sha256_file(path)
    )
    report = verify_certificate(tmp_path / "many.json", Evidence(store=made.store))
    told = [check for check in report.checks if check.name.startswith("adapter ")]
    assert [check.ok for check in told] == [False, True] * 500
    assert "belongs to another adapter" in told[0].problem
    assert len(hashed) == len(set(hashed)) <= 4


def test_a_key_out_of_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CertificateError, match="is no public key"):
        read_public_key(str(tmp_path / "pipe"))
