"""A PostgreSQL server of one's own, in a temporary folder, on a Unix socket: started, killed and started again.

It does not sync: what is killed are processes, and the system that holds their writes goes on.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

PLACES = ["/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin", "/usr/pgsql-*/bin"]
SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
max_prepared_transactions = 50
shared_buffers = 16MB
max_connections = 20
autovacuum = off
fsync = off
logging_collector = off
"""


def missing() -> str:
    """What there is not, in a sentence; empty where everything is there."""
    if programs() is None:
        return "PostgreSQL's server is not installed (Debian: the package postgresql)"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed (pip install 'psycopg[binary]')"
    if os.geteuid() == 0 and account() is None:
        return "PostgreSQL does not run as root, and there is no user postgres or nobody"
    return ""


def programs() -> Path | None:
    """The folder of initdb and postgres, the newest."""
    found = [bin for pattern in PLACES for bin in sorted(Path("/").glob(pattern[1:])) if (bin / "initdb").exists()]
    if found:
        return found[-1]
    path = shutil.which("initdb")
    return Path(path).resolve().parent if path else None


def account() -> pwd.struct_passwd | None:
    """Whom a server that root starts runs as."""
    for name in "postgres", "nobody":
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


class Postgres:
    """A server with one database, ``postgres``. Use it in a ``with`` block."""

    def __init__(self, directory: str = "/tmp") -> None:  # a socket's path takes 107 bytes at most
        bin = programs()
        assert bin is not None
        self.bin = bin
        self.folder = Path(tempfile.mkdtemp(prefix="2pc-pg-", dir=directory))
        self.data = self.folder / "data"
        self.who: dict[str, object] = {}
        user = account() if os.geteuid() == 0 else None
        if user is not None:
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self.who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self.process: subprocess.Popen[bytes] | None = None
        self.run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(SETTINGS.format(folder=self.folder))
        self.conninfo = f"host={self.folder} dbname=postgres user=postgres connect_timeout=20"

    def run(self, program: str, *arguments: object) -> None:
        subprocess.run([self.bin / program, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, cwd=self.folder,
                       env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, **self.who)  # type: ignore[call-overload]  # fmt: skip

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Starts the server where it does not run, and waits until it answers."""
        import psycopg

        if self.process is not None and self.process.poll() is None:
            return
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([self.bin / "postgres", "-D", self.data], stdout=log, stderr=log, cwd=self.folder,
                                            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, **self.who)  # type: ignore[call-overload]  # fmt: skip
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.conninfo).close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "log").read_text()[-3000:]) from None
                time.sleep(0.02)

    def kill(self) -> None:
        """Kills the postmaster and every server process, and waits until all are gone."""
        if self.process is not None and self.process.poll() is None:
            kill_tree(self.process.pid)
            self.process.wait()

    def __enter__(self) -> Postgres:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self.start()  # after a kill: it gives back the shared memory that was left
            os.kill(self.pid, signal.SIGINT)
            assert self.process is not None
            self.process.wait(20)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and its children, and waits until they have ended: the postmaster first, so that it starts no recovery."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGSTOP)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if Path(f"/proc/{pid}").exists() else []
    for each in (pid, *map(int, children)):
        with contextlib.suppress(OSError):
            os.kill(each, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(_lives(int(each)) for each in (pid, *children)) and time.monotonic() < deadline:
        time.sleep(0.002)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (OSError, IndexError):
        return False
