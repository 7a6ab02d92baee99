"""The page is served to this machine alone."""

import http.client
import socket
import struct
import threading

import pytest

from asu_lora.errors import SettingError
from asu_lora.report.serve import server
from tests.support.adapter_folders import add, folder_in_memory
from tests.support.certificates import certified


@pytest.fixture(scope="module")
def served():
    with folder_in_memory() as folder:
        made = certified(folder)
        with server(made.store) as serving:
            thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            yield made, serving.server_port
            serving.shutdown()
            thread.join()


def ask(port: int, path: str = "/", method: str = "GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


def test_page_is_drawn_anew_at_each_visit(served):
    made, port = served
    status, body, headers = ask(port)
    assert status == 200 and b"Store store" in body and headers["Cache-Control"] == "no-store"
    assert b"adapter-late" not in body
    add(made.store, "late", seed=8)
    assert b"adapter-late" in ask(port)[1]


def test_certificates_are_there_and_nothing_else_is(served):
    made, port = served
    assert ask(port, "/kept/certificate.json")[1] == made.issued.file.read_bytes()
    assert ask(port, "/kept/certificate.html")[1] == made.issued.page.read_bytes()
    (made.store.root / "outside.txt").write_text("secret")
    for path in (
        "/.audit-key", "/.request-key", "/kept/adapter_config.json", "/kept/../.audit-key/certificate.json",
        "/%2e%2e/certificate.json", "/kept/certificate.json?x", "/none/certificate.json",
        "/other/certificate.json", "/outside.txt", "/.certificates/certificate.json",
    ):  # fmt: skip
        assert ask(port, path)[0] == 404, path


def test_certificate_that_is_a_link_outwards_is_not_shown(served, tmp_path):
    made, port = served
    (tmp_path / "secret").write_text("secret")
    link = made.store.root / "other" / "certificate.json"
    link.symlink_to(tmp_path / "secret")
    assert ask(port, "/other/certificate.json")[0] == 404
    link.unlink()


def test_a_store_that_can_not_be_read_is_a_sentence(served, capfd):
    made, port = served
    aside = made.store.root.rename(made.store.root.with_name("aside"))
    made.store.root.write_text("")
    for path in ("/", "/kept/certificate.json"):
        status, body, _ = ask(port, path)
        assert status == 500 and b"Not a directory" in body
    made.store.root.unlink()
    aside.rename(made.store.root)
    assert ask(port)[0] == 200 and capfd.readouterr() == ("", "")


def test_other_names_for_this_machine_are_refused(served):
    _, port = served
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        assert ask(port, Host=host)[0] == 403, host
    for host in ("localhost", f"localhost:{port}", "127.0.0.1", "[::1]:80"):
        assert ask(port, Host=host)[0] == 200, host


def test_head_has_no_body_and_nothing_can_be_written(served):
    _, port = served
    assert ask(port, method="HEAD")[:2] == (200, b"")
    assert ask(port, method="POST")[0] == 501


def test_nothing_is_said_of_a_visitor_who_goes_away(served, capfd):
    _, port = served
    for begun in (b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n", b"GET / HT"):
        with socket.create_connection(("127.0.0.1", port)) as visitor:
            visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes with a reset
            visitor.sendall(begun)
    assert ask(port)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_only_loopback_is_listened_on(served):
    made, port = served
    with server(made.store) as another:
        assert another.server_address[0] == "127.0.0.1"
    with pytest.raises(SettingError, match="--port"):
        server(made.store, port)
