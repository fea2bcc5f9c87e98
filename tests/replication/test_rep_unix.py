"""Followers over a Unix socket, in processes of their own: copied, kept up to date, killed, resumed, promoted."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from rephelp import contents
from test_rep_follower import churn, shown

import enginelib
from enginelib.replication import Follower, unix
from enginelib.replication.follower import POSITION
from enginelib.replication.unix import Leader, Server

PATIENCE = 60


def until(condition):
    """Polls until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)
    return found


class Process:
    """One of the module's commands, once it has said that it is up."""

    def __init__(self, *words):
        command = [sys.executable, "-m", "enginelib.replication.unix", *map(str, words)]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.said = self.popen.stdout.readline()

    def kill(self):
        self.popen.kill()
        self.popen.communicate()

    def end(self):
        self.popen.send_signal(signal.SIGTERM)
        _, errors = self.popen.communicate(timeout=PATIENCE)
        assert (self.popen.returncode, errors) == (0, "")


@pytest.fixture
def started():
    with contextlib.ExitStack() as stack:

        def start(*words):
            process = Process(*words)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def leader(tmp_path, tree):
    with enginelib.open(tmp_path / "leader", segment_size=1 << 20, durability="os", cache_size=4 << 20) as db:
        for name in ("one", "two"):
            db.keyspace(name, **tree)
        yield db


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s"


def held(directory):
    """What a follower holds whose process has ended."""
    with enginelib.open(directory, read_only=True, create=False) as db:
        return {name: rows for name, rows in contents(db).items() if name != POSITION}


def acknowledged(db):
    """Waits until the follower has acknowledged all that is committed."""
    *_, newest = db.changes()
    until(lambda: any(slot.confirmed >= newest.lsn for slot in db.slots() if slot.name.startswith("follower-")))


def test_a_process_is_copied_to_and_follows(leader, tmp_path, path, started):
    rng = random.Random(1)
    churn(leader, rng, 100)
    leader["one"][b"big"] = rng.randbytes(3 << 20)
    with Server(leader, path):
        follower = started("follow", tmp_path / "follower", path)
        assert "follows" in follower.said
        acknowledged(leader)
        churn(leader, rng, 50)
        leader.rename_keyspace("two", "zwei")
        leader.keyspace("three")[b"a"] = b"1"
        acknowledged(leader)
        (slot,) = leader.slots()
        assert slot.active
        follower.end()
        assert held(tmp_path / "follower") == contents(leader)
    assert not os.path.exists(path)
    with Follower(tmp_path / "follower", Leader(path)) as again:
        assert shown(again) == contents(leader)


def test_whoever_is_killed_it_goes_on(leader, tmp_path, path, started):
    rng = random.Random(2)
    churn(leader, rng, 50)
    follower = started("follow", tmp_path / "follower", path)  # before there is anybody to follow
    for round in range(6):
        with Server(leader, path):
            if round % 2:
                follower.kill()
                follower = started("follow", tmp_path / "follower", path)
            last = churn(leader, rng, 60)
    follower.end()
    wanted = contents(leader)
    leader.close()
    server = started("serve", tmp_path / "leader", path)
    with Follower(tmp_path / "follower", Leader(path)) as here:
        assert here.wait_for(sequence=last, timeout=PATIENCE)
        assert shown(here) == wanted
        server.kill()  # its socket stays
        assert os.path.exists(path)
        with enginelib.open(tmp_path / "leader") as db, Server(db, path):
            assert here.wait_for(sequence=churn(db, rng, 20), timeout=PATIENCE)
            assert shown(here) == contents(db)
            assert len(db.slots()) == 1


def test_reads_of_ones_own_writes(leader, tmp_path, path):
    with Server(leader, path), Follower(tmp_path / "follower", Leader(path)) as follower:
        for n in range(50):
            with leader.transaction() as txn:
                txn.put(leader["one"], b"k", b"%d" % n)
            if n % 2:
                *_, change = leader.changes()
                assert follower.wait_for(change.lsn, timeout=PATIENCE)
            else:
                assert follower.wait_for(sequence=txn.commit_ts, timeout=PATIENCE)
            assert follower.database["one"][b"k"] == b"%d" % n
        assert follower.lag()[:2] == (None, None)


def test_a_copy_that_is_cut_short_is_begun_again(leader, tmp_path, path):
    rng = random.Random(3)
    for _ in range(8):
        leader["one"].put_many((b"%06d" % rng.randrange(10**6), rng.randbytes(2000)) for _ in range(1000))
    for cut in range(4):
        with Server(leader, path):
            follower = Follower(tmp_path / "follower", Leader(path))
            until(lambda: len(follower.database.keyspaces()) > 1)
            follower.database.abandon() if cut % 2 else follower.stop()
            follower.close()
    with Server(leader, path), Follower(tmp_path / "follower", Leader(path)) as follower:
        assert follower.wait_for(sequence=leader.stats()["transactions"]["visible_ts"], timeout=PATIENCE)
        assert shown(follower) == contents(leader)
        assert len(leader.slots()) == 1


def test_a_new_connection_ends_the_one_before(leader, tmp_path, path):
    with Server(leader, path):
        with Follower(tmp_path / "follower", Leader(path)) as follower:
            assert follower.wait_for(sequence=1, timeout=PATIENCE)
            (slot,) = leader.slots()
        with Leader(path).connect(slot.name, follower.position, 0) as left:  # it reads nothing more
            left.greet()
            assert left.database_id == leader.database_id and not left.copying
            with Follower(tmp_path / "follower", Leader(path)) as follower:
                assert follower.wait_for(sequence=churn(leader, random.Random(4), 50), timeout=PATIENCE)
                assert shown(follower) == contents(leader)
            with pytest.raises(ConnectionError):
                while True:
                    left.next_many(1, 1.0)


def test_a_slot_that_was_dropped_is_made_again_where_the_log_is_there(leader, tmp_path, path):
    with Server(leader, path):
        with Follower(tmp_path / "follower", Leader(path)) as follower:
            assert follower.wait_for(sequence=churn(leader, random.Random(5), 5), timeout=PATIENCE)
        keeper = leader.create_slot("keeper")
        (name,) = [slot.name for slot in leader.slots() if slot.name != "keeper"]
        until(lambda: name not in leader.slots_in_use)
        leader.drop_slot(name)
        churn(leader, random.Random(6), 5)
        with Follower(tmp_path / "follower", Leader(path)) as follower:
            assert follower.wait_for(sequence=churn(leader, random.Random(7), 5), timeout=PATIENCE)
            assert shown(follower) == contents(leader)
        until(lambda: name not in leader.slots_in_use)
        leader.drop_slot(name)
        leader.drop_slot(keeper.name)
        churn(leader, random.Random(8), 400)
        leader.checkpoint()
        leader.checkpoint()
        with Follower(tmp_path / "follower", Leader(path)) as follower:
            with pytest.raises(enginelib.ChangesGone, match="The leader says"):
                follower.wait_for(sequence=1 << 40, timeout=PATIENCE)


def test_a_replaced_leader_is_fenced(leader, tmp_path, path, started):
    churn(leader, random.Random(9), 20)
    with Server(leader, path):
        with Follower(tmp_path / "follower", Leader(path)) as follower:
            assert follower.wait_for(sequence=churn(leader, random.Random(10), 20), timeout=PATIENCE)
            before = shown(follower)
        promoted = started("promote", tmp_path / "follower")
        assert "leader of epoch 1" in promoted.said
        promoted.popen.communicate()
        churn(leader, random.Random(11), 20)
        zombie = started("follow", tmp_path / "follower", path)
        _, errors = zombie.popen.communicate(timeout=PATIENCE)
        assert zombie.popen.returncode == 1 and errors.startswith("FencedError: ")
        assert held(tmp_path / "follower") == before


def test_misuse_is_told(leader, tmp_path, path, started):
    with Server(leader, path):
        with pytest.raises(enginelib.UsageError, match="already"):
            Server(leader, path)
        with Follower(tmp_path / "follower", Leader(path)) as follower:
            assert follower.wait_for(sequence=1, timeout=PATIENCE)
    with enginelib.open(tmp_path / "other") as other, Server(other, path):
        assert os.stat(path).st_mode & 0o777 == 0o600
        with Follower(tmp_path / "follower", Leader(path)) as follower, pytest.raises(enginelib.UsageError, match="follows database"):
            follower.wait_for(sequence=1 << 40, timeout=PATIENCE)
        with socket.socket(socket.AF_UNIX) as stranger:  # is sent away, and harms nobody
            stranger.connect(str(path))
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert stranger.recv(100) == b""
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(path))
            stranger.sendall(unix.HEAD.pack(3, unix.HELLO) + b"\xc1\xc1\xc1")
            assert stranger.recv(100) == b""
    with enginelib.open(tmp_path / "other", read_only=True) as other, pytest.raises(enginelib.ReadOnlyError):
        Server(other, path)
    path.write_text("a file")
    with pytest.raises(enginelib.UsageError, match="no socket"):
        Server(leader, path)
    with pytest.raises(ValueError, match="at most"):
        Leader("x" * 200)
    failed = started("serve", tmp_path / "nothing", path)
    failed.popen.wait(PATIENCE)
    assert failed.popen.returncode == 1


def test_stop_ends_a_follower_that_nobody_answers(tmp_path, path):
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        follower = Follower(tmp_path / "follower", Leader(path))
        with silent.accept()[0]:
            started = time.monotonic()
            follower.close()
            assert time.monotonic() - started < unix.SILENCE / 4


def test_stop_ends_sources_that_block(leader, tmp_path):
    """One that can be closed is closed; one that cannot is left behind, and nothing that it still brings is applied."""
    frames = list(leader.changes())

    class Queue:
        def __init__(self, closable):
            self.left = list(frames)
            self.woken = threading.Event()
            self.inside = threading.Event()
            if closable:
                self.close = self.woken.set

        def __iter__(self):
            return self

        def __next__(self):
            if len(self.left) > 1:
                return self.left.pop(0)
            self.inside.set()
            assert self.woken.wait(PATIENCE)
            return self.left.pop()

    for closable in (True, False):
        source = Queue(closable)
        follower = Follower(tmp_path / f"follower{closable}", source)
        assert source.inside.wait(PATIENCE)
        follower.stop()
        assert source.woken.is_set() == closable
        source.woken.set()
        follower._thread.join(PATIENCE)
        assert not follower._thread.is_alive() and not source.left
        assert follower.position.sequence == frames[-2].sequence and follower.error is None
        follower.close()

    def generated():
        yield frames[0]
        assert source.woken.wait(PATIENCE)
        yield frames[1]

    source = Queue(False)
    follower = Follower(tmp_path / "generator", generated())
    assert follower.wait_for(sequence=frames[0].sequence, timeout=PATIENCE)
    follower.close()
    source.woken.set()
    assert follower.position.sequence == frames[0].sequence and follower.error is None


def test_a_leader_that_has_gone_back_refuses(leader, tmp_path, path):
    """A position beyond the end of its log: whatever it commits next would be taken for what was applied already."""
    with Server(leader, path), Follower(tmp_path / "follower", Leader(path)) as follower:
        assert follower.wait_for(sequence=1, timeout=PATIENCE)
        (slot,) = leader.slots()
    with Server(leader, path):
        leader.drop_slot(slot.name)
        ahead = follower.position.__class__(leader=leader.database_id, sequence=1 << 40, lsn=1 << 40)
        with Leader(path).connect(slot.name, ahead, 0) as connection, pytest.raises(enginelib.Error, match="beyond the end"):
            connection.greet()


def test_the_wire(path):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire = unix.Wire(ours, 1 << 16, silence=0.05)
        assert wire.receive(0.0) is None
        for at in range(9):  # byte by byte
            assert wire.ready() is None
            theirs.sendall((unix.HEAD.pack(4, 7) + b"body")[at : at + 1])
            assert at == 8 or wire.receive(0.0) is None
        assert wire.receive(1.0) == (7, b"body")
        unix.Wire(theirs, 1 << 16).send(8, b"", b"two")
        assert [wire.receive(1.0), wire.receive(1.0)] == [(8, b""), (8, b"two")]
        with pytest.raises(ConnectionError, match="Nothing was heard"):
            while True:
                wire.receive(0.1)
        theirs.sendall(unix.HEAD.pack(1 << 16, 7))
        with pytest.raises(ConnectionError, match="does not speak"):
            wire.receive(1.0)
        wire.cancel()
        with pytest.raises(ConnectionError):
            unix.Wire(ours, 1 << 16).receive(1.0)


def test_synchronous_commits_are_acknowledged_at_once(leader, tmp_path, path):
    """They waited for the next of the follower's regular acknowledgements, a fifth of a second each."""
    with Server(leader, path), Follower(tmp_path / "follower", Leader(path)) as follower:
        leader["one"].put(b"first", b"")
        assert follower.wait_for(sequence=leader.stats()["transactions"]["visible_ts"], timeout=PATIENCE)
        leader.require_acknowledgements(1, timeout=PATIENCE)
        began = time.monotonic()
        for i in range(200):
            leader["one"].put(b"%d" % i, b"v")
            assert follower.database["one"].get(b"%d" % i) == b"v"
        took = time.monotonic() - began
        leader.transaction().prepare("x")
        leader.commit_prepared("x")  # nothing to apply, and acknowledged all the same
    assert took < 200 * 0.1, "a fifth of a second each takes 40 seconds"
