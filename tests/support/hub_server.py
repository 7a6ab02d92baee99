"""A hub on this machine: as much of the Hugging Face hub's HTTP interface as push and pull speak.

The client is the real huggingface_hub, over real sockets. Repositories are folders; every request is noted.
"""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"


@contextmanager
def hub(root: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Serve the repositories ``root/user/name``; yield the address and the list of (method, path) asked for."""
    requests: list[tuple[str, str]] = []
    served = type("Served", (Hub,), {"root": root, "requests": requests, "private": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), served)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    requests: list[tuple[str, str]]
    private: dict[str, bool]  # of the repositories that were made over HTTP; others are public

    def log_message(self, *args):
        pass

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(content)), "Content-Type": "application/json", **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, value, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode())

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.requests.append((self.command, path))
        parts = path.strip("/").split("/")
        repository = self.root.joinpath(*parts[2:4] if parts[0] == "api" else parts[:2])
        files = {file.relative_to(repository).as_posix(): file for file in repository.rglob("*") if file.is_file()}
        if not files:
            self.answer(404, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="no such repository")
        elif "resolve" in parts and (name := "/".join(parts[4:])) in files:
            self.answer(200, files[name].read_bytes(), ETag=f'"{abs(hash(name))}"', X_Repo_Commit=COMMIT)
        elif "tree" in parts:
            self.answer_json(
                [
                    {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40}
                    for name, file in files.items()
                ]
            )
        else:
            self.answer_json(
                {
                    "id": "/".join(parts[2:4]),
                    "sha": COMMIT,
                    "private": self.private.get("/".join(parts[2:4]), False),
                    "tags": [],
                    "siblings": [{"rfilename": name} for name in files],
                }
            )

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self.body()
        self.requests.append((self.command, path))
        parts = path.strip("/").split("/")
        if (refuses := self.root / "refuses").is_file():  # a status that every change is answered with
            self.answer_json({"error": "no"}, int(refuses.read_text()))
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repository = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            private = asked.get("private", asked.get("visibility") == "private")
            self.private.setdefault(repository, private)
            self.requests.append(("private", str(private)))
            self.answer_json({"url": f"http://{self.headers['Host']}/{repository}", "id": repository})
        elif parts[4:5] == ["preupload"]:
            self.answer_json(
                {
                    "files": [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in json.loads(body)["files"]
                    ]
                }
            )
        elif parts[4:5] == ["commit"]:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    file = self.root.joinpath(*parts[2:4], line["value"]["path"])
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(base64.b64decode(line["value"]["content"]))
                elif line["key"] == "deletedFile":
                    self.root.joinpath(*parts[2:4], line["value"]["path"]).unlink()
            url = f"http://{self.headers['Host']}/{parts[2]}/{parts[3]}/commit/{COMMIT}"
            self.answer_json({"success": True, "commitOid": COMMIT, "commitUrl": url})
        else:
            self.answer_json({"errors": [], "warnings": []})  # the check of a card's front matter
