"""A Postgres server for one test session: its own folder, its own socket, no network."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

PLACES = "/usr/local/bin:/usr/lib/postgresql/17/bin:/usr/lib/postgresql/16/bin:/usr/lib/postgresql/15/bin:/usr/lib/postgresql/14/bin"


def program(name: str) -> str | None:
    """Where Postgres' own programs are; Debian keeps them out of PATH."""
    return shutil.which(name) or shutil.which(name, path=PLACES)


def why_not() -> str | None:
    """Why there can be no server here; None if there can."""
    if not (program("initdb") and program("pg_ctl")):
        return "needs Postgres (initdb and pg_ctl), which is not installed"
    if os.name == "posix" and os.geteuid() == 0 and _other_user() is None:
        return "Postgres refuses to run as root, and there is no user 'nobody' to run it as"
    return None


@contextmanager
def running(folder: Path) -> Iterator["Server"]:
    """A server in ``folder``, stopped at once when the block ends."""
    user = _other_user() if os.geteuid() == 0 else None
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    server = Server(folder, user)
    server.call("initdb", "-D", str(folder / "data"), "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8")
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Server:
    def __init__(self, folder: Path, user):
        self.folder, self.user = folder, user

    @property
    def address(self) -> str:
        return f"postgresql://tester@/postgres?host={quote(str(self.folder))}"

    def start(self) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync=off"
        self.call(
            "pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log"), "-o", options, "start"
        )

    def stop(self) -> None:
        self.call("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")

    def call(self, name: str, *words: str) -> None:
        ids = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []} if self.user else {}
        # no pipes: the server would keep them open
        with (self.folder / "output").open("ab") as output:
            subprocess.run([program(name), *words], check=True, stdout=output, stderr=output, cwd=self.folder, **ids)

    def new_database(self, name: str) -> str:
        """An empty database of that name; its address."""
        import psycopg

        with psycopg.connect(host=str(self.folder), user="tester", dbname="postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.address.replace("/postgres?", f"/{name}?")


def _other_user():
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        return None
