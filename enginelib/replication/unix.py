"""Followers in other processes, over a Unix-domain socket.

    python -m enginelib.replication.unix serve DB SOCKET     # a leader that only serves; programs use `Server`
    python -m enginelib.replication.unix follow DB SOCKET    # a follower, until it is told to stop
    python -m enginelib.replication.unix promote DB          # makes a leader of one that is not running

Protocol: messages in both directions, each its length in four bytes, big-endian, one byte that says of what kind it is,
and a body, MessagePack unless it is said otherwise. The follower says hello: the version of the protocol, the name of
its slot, where it stands, and the highest epoch it knows. The leader answers with its identity, or refuses. Where the
follower has no copy yet, the parts of one come next, of one snapshot, and the sequence and the LSN that they hold. Then
changes, each as `codec.encode` makes it, and between them, when there is no more, up to which LSN that is all. The
follower acknowledges LSNs whose changes it has synced, which moves its slot: now and then, or at once when it is asked,
because commits of the leader wait for it.

Invariants: nothing is sent that the leader has not synced. The slot stands at or before what the follower has synced,
so whichever side dies, at whatever byte, nothing is missing when they meet again; what comes twice is passed over. A
new connection for a slot ends the one before.

Who can connect to the socket reads all of the database: its mode is 0600.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import select
import signal
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import msgspec

from enginelib._native.engine.door import Change
from enginelib.database import Database
from enginelib.errors import ChangesGone, DatabaseClosed, Error, FencedError, ReadOnlyError, UsageError
from enginelib.replication.changes import Changes
from enginelib.replication.codec import LARGEST, decode, encode
from enginelib.replication.follower import ConnectionLost, Follower, Part, Position, parts_of

VERSION = 1
HEAD = struct.Struct(">IB")
HELLO, ACKNOWLEDGE = 1, 2
WELCOME, REFUSED, PART, COPIED, CHANGE, HERE, ASKED = range(16, 23)
PIECE = 1 << 18
FROM_FOLLOWER = 1 << 16  # bytes of a message, at most
LONGEST_PATH = 103  # of a socket, in bytes, on every system
BATCH = 256
WAIT = 0.2
TELL = 1.0  # between two messages of a leader that has nothing to say
SILENCE = 60.0  # after which the other side is taken for dead
REFUSALS: dict[str, type[Error]] = {each.code: each for each in (ChangesGone, FencedError, UsageError)}


class Hello(msgspec.Struct, frozen=True):
    """What a follower begins with: `position` is None, or not `copied`, where it needs a copy."""

    version: int
    slot: str
    position: Position | None
    epoch: int


class Welcome(msgspec.Struct, frozen=True):
    """What a leader answers."""

    version: int
    database_id: bytes
    epoch: int
    copying: bool


class Wire:
    """Messages over a socket. One thread sends and receives; `cancel` is for any.

    Attributes:
        socket: the socket.
    """

    def __init__(self, connected: socket.socket, most: int, silence: float = math.inf) -> None:
        """Takes over a socket that is connected.

        Args:
            connected: it.
            most: a message of so many bytes or more is nonsense.
            silence: seconds without a word after which the other side is taken for dead.
        """
        self.socket = connected
        self._most = most
        self._silence = silence
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        self._data = bytearray()
        self._heard = time.monotonic()

    def send(self, kind: int, *bodies: bytes) -> None:
        """Sends messages of one kind, together.

        Raises:
            ConnectionLost: the other side is gone.
        """
        pieces = []
        for body in bodies:
            if len(body) >= LARGEST:
                raise UsageError(f"A message takes {len(body)} bytes, more than the {LARGEST} there may be.")
            pieces += [HEAD.pack(len(body), kind), body]
        try:
            self.socket.sendall(b"".join(pieces))
        except OSError as error:
            raise ConnectionLost(f"The connection broke: {error}.") from None

    def ready(self) -> tuple[int, bytes] | None:
        """Returns the next message, its kind and its body, if it has been read whole."""
        data = self._data
        if len(data) < HEAD.size:
            return None
        size, kind = HEAD.unpack_from(data)
        if size >= self._most:
            raise ConnectionLost(f"A message of {size} bytes: the other side does not speak this protocol.")
        end = HEAD.size + size
        if len(data) < end:
            return None
        with memoryview(data) as view:
            body = bytes(view[HEAD.size : end])
        del data[:end]
        return kind, body

    def receive(self, timeout: float) -> tuple[int, bytes] | None:
        """Waits for a message for at most `timeout` seconds; None when none came.

        Raises:
            ConnectionLost: the other side is gone, or has said nothing for a long time.
        """
        deadline = time.monotonic() + timeout
        while (found := self.ready()) is None:
            left = max(0.0, deadline - time.monotonic())
            try:
                if not self._poll.poll(left * 1000):
                    if time.monotonic() - self._heard > self._silence:
                        raise ConnectionLost(f"Nothing was heard for {self._silence:g} seconds.")
                    return None
                some = self.socket.recv(PIECE)
            except ConnectionLost:
                raise
            except OSError as error:
                raise ConnectionLost(f"The connection broke: {error}") from None
            if not some:
                raise ConnectionLost("The other side has gone away.")
            self._heard = time.monotonic()
            self._data += some
        return found

    def expect(self, *kinds: int) -> tuple[int, bytes]:
        """Waits for a message, which must be of one of these kinds."""
        found = self.receive(SILENCE)
        if found is None or found[0] not in kinds:
            raise ConnectionLost(f"{found and found[0]} came instead of one of {kinds}.")
        return found

    def cancel(self) -> None:
        """Ends the connection, from any thread: who waits for the other side gets `ConnectionLost`."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the socket."""
        self.socket.close()


# ---- the leader's side


class Server:
    """Serves a database to followers, by threads of its own, until it is closed.

    Attributes:
        path: of the socket.
    """

    def __init__(self, database: Database, path: str | os.PathLike[str]) -> None:
        """Makes the socket and begins to serve.

        Args:
            database: open for writing.
            path: of the socket, in a directory that exists. What a server that died has left there is replaced.

        Raises:
            UsageError: another server is there, or something that is no socket.
            ReadOnlyError: the database was opened read-only: it has no slots to move.
        """
        if database.read_only:
            raise ReadOnlyError("A database that was opened read-only cannot be served: open it for writing.")
        self.path = _checked(path)
        self._database = database
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._serving: dict[str, tuple[Wire, threading.Thread]] = {}  # by slot
        self._wires: set[Wire] = set()
        self._threads: set[threading.Thread] = set()
        _clear(self.path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(self.path)
            os.chmod(self.path, 0o600)  # nobody can connect before it listens
            self._inode = os.stat(self.path).st_ino
            self._socket.listen()
        except BaseException:
            self._socket.close()
            raise
        self._accepting = threading.Thread(target=self._accept, name="enginelib-server", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Ends all connections; the database stays open. Followers try again until somebody serves again."""
        with self._lock:
            if self._ending.is_set():
                return
            self._ending.set()
            with contextlib.suppress(OSError):
                if os.stat(self.path).st_ino == self._inode:
                    os.unlink(self.path)
            for wire in self._wires:
                wire.cancel()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._socket.close()
        for thread in list(self._threads):
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._ending.is_set():
            try:
                connected, _ = self._socket.accept()
            except OSError:  # it is closed, or there are no more descriptors of files
                self._ending.wait(WAIT)
                continue
            wire = Wire(connected, FROM_FOLLOWER)
            thread = threading.Thread(target=self._serve, args=(wire,), name="enginelib-server-of-one", daemon=True)
            with self._lock:
                if self._ending.is_set():
                    wire.close()
                    return
                self._wires.add(wire)
                self._threads.add(thread)
            thread.start()

    def _serve(self, wire: Wire) -> None:
        """The thread of one connection."""
        slot = None
        try:
            hello = msgspec.msgpack.decode(wire.expect(HELLO)[1], type=Hello)
            slot = hello.slot
            self._replace(slot, wire)
            self._answer(wire, hello)
        except (ConnectionLost, DatabaseClosed, msgspec.MsgspecError):
            pass
        except Exception as error:  # the follower is told: it is not to try for ever
            code, retryable = (error.code, error.retryable) if isinstance(error, Error) else (Error.code, False)
            with contextlib.suppress(ConnectionLost):
                wire.send(REFUSED, msgspec.msgpack.encode((code, str(error), retryable)))
        finally:
            with self._lock:
                if slot is not None and self._serving.get(slot, (None,))[0] is wire:
                    del self._serving[slot]
                self._wires.discard(wire)
                self._threads.discard(threading.current_thread())
                wire.close()

    def _replace(self, slot: str, wire: Wire) -> None:
        """A follower that connects anew has left the connection before."""
        with self._lock:
            before = self._serving.get(slot)
            self._serving[slot] = (wire, threading.current_thread())
        if before is not None:
            before[0].cancel()
            before[1].join()

    def _answer(self, wire: Wire, hello: Hello) -> None:
        leader = self._database
        if hello.version != VERSION:
            raise UsageError(f"The follower speaks version {hello.version} of the protocol, not {VERSION}.")
        if hello.epoch > leader.epoch:
            raise FencedError(
                f"Epoch {hello.epoch} is known to the follower; this leader of {leader.epoch} is replaced."
            )
        position = hello.position
        copying = position is None or not position.copied
        if position is not None and position.leader != leader.database_id:
            raise UsageError(
                f"The follower follows database {position.leader.hex()}; {leader.database_id.hex()} is here."
            )
        slots = {each.name for each in leader.slots()}
        if copying:
            if hello.slot in slots:  # of a copy that was cut short
                leader.drop_slot(hello.slot)
            leader.create_slot(hello.slot)
        elif position is not None and hello.slot not in slots:
            leader.create_slot(hello.slot, since=position.lsn)
        welcome = Welcome(VERSION, leader.database_id, leader.epoch, copying)
        wire.send(WELCOME, msgspec.msgpack.encode(welcome))
        if copying:
            self._copy(wire, hello.slot)
        self._changes(wire, hello.slot)

    def _copy(self, wire: Wire, slot: str) -> None:
        with self._database.transaction(read_only=True) as snapshot:
            for part in parts_of(snapshot):
                wire.send(PART, msgspec.msgpack.encode(part))
            sequence = snapshot.snapshot
        confirmed = next(each.confirmed for each in self._database.slots() if each.name == slot)
        wire.send(COPIED, msgspec.msgpack.encode((sequence, confirmed)))

    def _changes(self, wire: Wire, slot: str) -> None:
        heard = Heard(self._database, wire, slot)
        heard.start()
        try:
            with self._database.changes(slot=slot) as stream:
                self._send_changes(wire, stream, heard)
        finally:
            wire.cancel()
            heard.join()

    def _send_changes(self, wire: Wire, stream: Changes, heard: Heard) -> None:
        told, sent = 0.0, 0
        while not self._ending.is_set() and not self._database.closed and not heard.lost:
            found = stream.next_many(BATCH, WAIT)
            asked = self._database.required is not None and stream.position > sent
            if found:
                wire.send(CHANGE, *map(encode, found))
            elif stream.position and (asked or time.monotonic() - told >= TELL):
                told = time.monotonic()
                wire.send(HERE, msgspec.msgpack.encode(stream.position))
            sent = stream.position
            if asked:
                wire.send(ASKED, b"")
            if heard.lsn > heard.noted:
                heard.noted = heard.lsn
                stream.acknowledge(min(heard.noted, stream.position))


class Heard(threading.Thread):
    """Takes a follower's acknowledgements as they come: commits may be waiting for them.

    Attributes:
        lsn: the newest.
        noted: the newest that the slot has been told of.
        lost: whether no more will come.
    """

    def __init__(self, database: Database, wire: Wire, slot: str) -> None:
        super().__init__(name="enginelib-server-hears", daemon=True)
        self._database = database
        self._wire = wire
        self._slot = slot
        self.lsn = self.noted = 0
        self.lost = False

    def run(self) -> None:
        """The thread."""
        try:
            while True:
                message = self._wire.receive(SILENCE)
                if message is not None and message[0] == ACKNOWLEDGE:
                    lsn = msgspec.msgpack.decode(message[1], type=int)
                    self._database.acknowledge(self._slot, applied=lsn)
                    self.lsn = max(self.lsn, lsn)
        except (ConnectionLost, ValueError, msgspec.MsgspecError, Error):
            pass  # the follower is gone, or talks of another history
        finally:
            self.lost = True


def _checked(path: str | os.PathLike[str]) -> str:
    name = os.path.abspath(os.fspath(path))
    if len(os.fsencode(name)) > LONGEST_PATH:
        raise ValueError(f"The path of a socket takes at most {LONGEST_PATH} bytes: {name}")
    return name


def _clear(path: str) -> None:
    """Removes the socket of a server that died."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise UsageError(f"{path} is there, and no socket.")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
    raise UsageError(f"A server is at {path} already.")


# ---- the follower's side


class Leader:
    """A leader that a `Server` serves at a socket: a source for `Follower`. The server may come and go.

    Attributes:
        path: of the socket.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Notes where it is."""
        self.path = _checked(path)

    def connect(self, name: str, position: Position | None, epoch: int) -> UnixConnection:
        """See `follower.Elsewhere`."""
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connected.connect(self.path)
        except OSError as error:
            connected.close()
            raise ConnectionLost(f"Nobody serves at {self.path}: {error}") from None
        wire = Wire(connected, LARGEST, SILENCE)
        try:
            wire.send(HELLO, msgspec.msgpack.encode(Hello(VERSION, name, position, epoch)))
            return UnixConnection(wire)
        except BaseException:
            wire.close()
            raise

    def __repr__(self) -> str:
        return f"<enginelib.replication.unix.Leader at {self.path!r}>"


class UnixConnection:
    """See `follower.Connection`."""

    def __init__(self, wire: Wire) -> None:
        """Takes over a wire on which hello was said."""
        self._wire = wire
        self.database_id = b""
        self.epoch = self.sequence = self.lsn = 0
        self.copying = self.asked = False

    def greet(self) -> None:
        """See `follower.Connection`."""
        welcome = _decoded(self._expect(WELCOME), Welcome)
        if welcome.version != VERSION:
            raise UsageError(f"The leader speaks version {welcome.version} of the protocol, not {VERSION}.")
        self.database_id = welcome.database_id
        self.epoch = welcome.epoch
        self.copying = welcome.copying

    def _expect(self, *kinds: int) -> tuple[int, bytes]:
        kind, body = self._wire.expect(*kinds, REFUSED)
        if kind == REFUSED:
            raise _refusal(body)
        return kind, body

    def parts(self) -> Iterator[Part]:
        """See `follower.Connection`."""
        while (found := self._expect(PART, COPIED))[0] == PART:
            yield _decoded(found, Part)
        self.sequence, self.lsn = _decoded(found, tuple[int, int])

    def next_many(self, most: int, timeout: float) -> list[Change]:
        """See `follower.Connection`."""
        changes: list[Change] = []
        found = self._wire.receive(timeout)
        while found is not None:
            kind, body = found
            if kind == CHANGE:
                changes.append(decode(body))
                self.lsn = changes[-1].lsn
            elif kind == HERE:
                self.lsn = _decoded(found, int)
            elif kind == ASKED:
                self.asked = True
                break
            elif kind == REFUSED:
                if changes:
                    return changes  # the leader is gone after this, and says it again
                raise _refusal(body)
            else:
                raise ConnectionLost(f"A message of kind {kind} among changes.")
            found = self._wire.ready() if len(changes) < most else None
        return changes

    def acknowledge(self, lsn: int) -> None:
        """See `follower.Connection`."""
        self._wire.send(ACKNOWLEDGE, msgspec.msgpack.encode(lsn))

    def cancel(self) -> None:
        """See `follower.Connection`."""
        self._wire.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wire.close()


def _decoded(message: tuple[int, bytes], kind: Any) -> Any:
    try:
        return msgspec.msgpack.decode(message[1], type=kind)
    except msgspec.MsgspecError as error:
        raise ConnectionLost(f"A message of kind {message[0]} that cannot be read: {error}") from None


def _refusal(body: bytes) -> Error:
    code, text, retryable = _decoded((REFUSED, body), tuple[str, str, bool])
    if retryable:
        raise ConnectionLost(f"The leader says: {text}")
    return REFUSALS.get(code, Error)(f"The leader says: {text}")


# ---- the command


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status, 1 when following has ended by an error."""
    parser = argparse.ArgumentParser(
        prog="python -m enginelib.replication.unix", description="Followers in other processes, over a Unix socket."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("serve", "serve a database to followers, until SIGTERM or Ctrl-C"),
        ("follow", "follow the database that is served at a socket; it is copied first"),
        ("promote", "make a leader of a follower that is not running"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("database", metavar="DB", help="directory of the database")
        if name != "promote":
            command.add_argument("socket", metavar="SOCKET", help="path of the socket")
    args = parser.parse_args(argv)
    try:
        if args.command == "promote":
            with Follower(args.database, ()) as follower:
                print(f"{args.database} is a leader of epoch {follower.promote().epoch}.")
            return 0
        return _serve(args.database, args.socket) if args.command == "serve" else _follow(args.database, args.socket)
    except (Error, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _told_to_end() -> threading.Event:
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    return told


def _serve(database: str, path: str) -> int:
    told = _told_to_end()
    with Database(database, create=False) as db, Server(db, path):
        print(f"{database} is served at {path}.", flush=True)
        told.wait()
    return 0


def _follow(database: str, path: str) -> int:
    told = _told_to_end()
    with Follower(database, Leader(path)) as follower:
        print(f"{database} follows {path}.", flush=True)
        while not told.wait(WAIT):
            if follower.error is not None:
                raise follower.error
    return 0


if __name__ == "__main__":
    sys.exit(main())
