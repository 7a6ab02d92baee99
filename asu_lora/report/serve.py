"""The page on this machine's own address, drawn anew at each visit; nobody else can reach it.

Loopback alone is not enough: a web page that somebody reads could point a name of its own at 127.0.0.1 and read what
is there. So a visit counts only if it asks for this machine by one of its own names.
"""

import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.certificate.record import CERTIFICATE_NAME, PAGE_NAME
from asu_lora.errors import AsuLoraError, SettingError
from asu_lora.report.contents import gather
from asu_lora.report.page import address, render_report
from asu_lora.report.queue import read_queue

LOOPBACK = "127.0.0.1"
_OWN_NAMES = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_FILE = re.compile(rf"/([A-Za-z0-9][A-Za-z0-9._-]{{0,99}})/({re.escape(PAGE_NAME)}|{re.escape(CERTIFICATE_NAME)})")
_KINDS = {PAGE_NAME: "text/html; charset=utf-8", CERTIFICATE_NAME: "application/json"}


def server(store: AdapterStore, port: int = 0) -> ThreadingHTTPServer:
    """A server on loopback; ``serve_forever`` runs it, ``server_port`` is its port.

    Raises:
        SettingError: the port is taken or not allowed.
    """

    class Visit(_Visit):
        pass

    Visit.store = store
    try:
        return _Server((LOOPBACK, port), Visit)
    except OSError as error:
        raise SettingError(f"Port {port} can't be used: {error.strerror}; take another one with --port.") from error


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address) -> None:
        """Say nothing of a visitor who went away before the page came."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Visit(BaseHTTPRequestHandler):
    store: AdapterStore
    server_version = "asu-lora"
    sys_version = ""

    def do_GET(self) -> None:
        if not _OWN_NAMES.fullmatch(self.headers.get("Host", "")):
            return self._answer(403, "text/plain", b"Only for this machine's own names.\n")
        try:
            return self._answer(*self._found())
        except AsuLoraError as error:
            return self._answer(500, "text/plain; charset=utf-8", f"{error}\n".encode(errors="backslashreplace"))

    do_HEAD = do_GET

    def _found(self) -> tuple[int, str, bytes]:
        """Status, kind and body of what is asked for."""
        if self.path == "/":
            text = render_report(
                gather(self.store), read_queue(self.store), lambda name: f"/{address(name)}/{PAGE_NAME}"
            )
            return 200, "text/html; charset=utf-8", text.encode()
        found = _FILE.fullmatch(self.path)
        # names only as the store lists them: what links lead to elsewhere is not shown
        path = self.store.root / found[1] / found[2] if found and found[1] in self.store.names() else None
        if found and path and path.is_file() and path.resolve().is_relative_to(self.store.root.resolve()):
            return 200, _KINDS[found[2]], path.read_bytes()
        return 404, "text/plain", b"There is no such page.\n"

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Visits are nobody's business: the library never prints."""
