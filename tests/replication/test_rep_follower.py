"""Followers: what the leader committed, all of it, once, in its order; whatever is stopped or killed."""

import random
import threading

import pytest
from rephelp import contents

import enginelib
from enginelib.replication import Follower, codec
from enginelib.replication.follower import POSITION


def shown(follower):
    return {name: rows for name, rows in contents(follower.database).items() if name != POSITION}


def churn(db, rng, rounds, names=("one", "two")):
    for _ in range(rounds):
        with db.transaction() as txn:
            for _ in range(rng.randrange(1, 8)):
                ks = db[rng.choice(names)]
                key = b"%03d" % rng.randrange(200)
                if rng.random() < 0.2:
                    txn.delete(ks, key)
                elif rng.random() < 0.05:
                    txn.delete_range(ks, key, key + b"9")
                else:
                    txn.put(ks, key, rng.randbytes(rng.choice([5, 50, 9000])))
    return txn.commit_ts


@pytest.fixture
def leader(tmp_path, tree):
    with enginelib.open(tmp_path / "leader", segment_size=1 << 20, durability="os", cache_size=4 << 20) as db:
        for name in ("one", "two"):
            db.keyspace(name, **tree)
        yield db


def test_a_follower_becomes_and_stays_the_same(leader, tmp_path, tree):
    rng = random.Random(1)
    churn(leader, rng, 100)
    with Follower(tmp_path / "follower", leader) as follower:
        for _ in range(5):
            last = churn(leader, rng, 40)
            assert follower.wait_for(sequence=last, timeout=20)
            assert shown(follower) == contents(leader)
        leader.keyspace("three", **tree)[b"a"] = b"1"
        leader.rename_keyspace("two", "zwei")
        leader.drop_keyspace("one")
        with leader.transaction() as txn:
            txn.put(leader["zwei"], b"last", b"")
        assert follower.wait_for(sequence=txn.commit_ts, timeout=20)
        assert shown(follower) == contents(leader)
        assert follower.lag() == (0, 0, 0.0)
        assert follower.error is None
        with follower.transaction() as txn, pytest.raises(enginelib.ReadOnlyError):
            txn.put(follower.database["zwei"], b"x", b"")
        options = {name: follower.database[name].stats().get("options") for name in ("three", "zwei")}
        assert options == {name: leader[name].stats().get("options") for name in options}


def test_a_copy_is_made_while_the_leader_works(leader, tmp_path):
    rng = random.Random(2)
    churn(leader, rng, 200)
    stop = threading.Event()

    def work():
        own = random.Random(3)
        while not stop.is_set():
            churn(leader, own, 1)

    thread = threading.Thread(target=work)
    thread.start()
    with Follower(tmp_path / "follower", leader) as follower:
        assert follower.wait_for(sequence=1, timeout=30)
        stop.set()
        thread.join()
        last = churn(leader, rng, 1)
        assert follower.wait_for(sequence=last, timeout=30)
        assert shown(follower) == contents(leader)


def test_a_follower_that_is_killed_goes_on_where_it_was(leader, tmp_path):
    rng = random.Random(4)
    for round in range(8):
        follower = Follower(tmp_path / "follower", leader)
        last = churn(leader, rng, 60)
        if round % 2:
            follower.wait_for(sequence=last - rng.randrange(60), timeout=20)
        follower.database.abandon()
        follower.stop()
    with Follower(tmp_path / "follower", leader) as follower:
        assert follower.wait_for(sequence=last, timeout=20)
        assert shown(follower) == contents(leader)
        assert len(leader.slots()) == 1, "of a copy that was begun again the slot goes"
        assert follower.database.verify().ok


def test_readers_see_prefixes_of_the_history(leader, tmp_path):
    """Each transaction puts its number everywhere: a reader that sees two numbers sees half a transaction."""
    ks = leader["one"]
    keys = [b"%d" % i for i in range(5)]
    with Follower(tmp_path / "follower", leader) as follower:
        done = threading.Event()

        def write():
            for n in range(300):
                with leader.transaction() as txn:
                    for key in keys:
                        txn.put(ks, key, b"%d" % n)
            done.set()

        thread = threading.Thread(target=write)
        assert follower.wait_for(sequence=1, timeout=20)
        thread.start()
        newest = -1
        while newest < 299:
            with follower.transaction() as txn:
                seen = set(txn.get_many(follower.database["one"], keys))
            assert len(seen) == 1
            value = seen.pop()
            if value is not None:
                assert int(value) >= newest, "monotonic"
                newest = int(value)
            assert follower.error is None
        thread.join()


def test_encoded_changes_from_anywhere(leader, tmp_path):
    """As a message system would: at least once, in order."""
    rng = random.Random(5)
    churn(leader, rng, 100)
    frames = [codec.encode(change) for change in leader.changes()]
    for cut in (30, 80, len(frames)):
        follower = Follower(tmp_path / "follower", [*frames[: cut // 2], *frames[:cut]])
        assert follower.wait_for(sequence=codec.decode(frames[cut - 1]).sequence, timeout=20)
        follower.close()
    asked = []

    def source(lsn):
        asked.append(lsn)
        return leader.changes(since=lsn)

    last = churn(leader, rng, 20)
    with Follower(tmp_path / "follower", source) as follower:
        assert follower.wait_for(sequence=last, timeout=20)
        assert asked == [codec.decode(frames[-1]).lsn]
        assert shown(follower) == contents(leader)


def test_a_replaced_leader_is_fenced(leader, tmp_path):
    churn(leader, random.Random(6), 20)
    first = Follower(tmp_path / "first", leader)
    second = Follower(tmp_path / "second", lambda lsn: leader.changes(since=lsn or None, follow=True))
    last = churn(leader, random.Random(7), 20)
    assert first.wait_for(sequence=last, timeout=20) and second.wait_for(sequence=last, timeout=20)
    second.close()
    promoted = first.promote()
    assert promoted.epoch == 1
    promoted["one"][b"new"] = b"leader"
    churn(leader, random.Random(8), 3)  # the zombie
    *_, late = leader.changes()
    first._source = iter([late])
    with pytest.raises(enginelib.FencedError, match="epoch 0"):
        first._apply([late])
    assert promoted["one"][b"new"] == b"leader"
    first.close()
    with enginelib.open(tmp_path / "first") as db:
        assert db.epoch == 1, "it is durable"
        *_, change = db.changes()
        assert change.epoch == 1


def test_two_that_follow_each_other_do_not_go_round(tmp_path, tree):
    """Origins stop the loop."""
    with enginelib.open(tmp_path / "a") as a:
        a.keyspace("space", **tree)[b"from a"] = b"1"
        with Follower(tmp_path / "b", a) as b:
            assert b.wait_for(sequence=a.stats()["transactions"]["visible_ts"], timeout=20)
            origins = {change.origin for change in b.database.changes() if any(o.keyspace == "space" for o in change.operations)}
            assert origins <= {None, a.database_id}
            with a.transaction() as txn:
                txn.put(a["space"], b"again", b"2")
            assert b.wait_for(sequence=txn.commit_ts, timeout=20)
            *_, change = b.database.changes()
            assert change.origin == a.database_id


def test_misuse_is_told(leader, tmp_path):
    with enginelib.open(tmp_path / "full") as db:
        db.keyspace("data")
    with pytest.raises(enginelib.UsageError, match="never a follower"):
        Follower(tmp_path / "full", leader)
    follower = Follower(tmp_path / "follower", leader)
    assert follower.wait_for(sequence=1, timeout=20)
    with pytest.raises(ValueError, match="one of them"):
        follower.wait_for()
    assert not follower.wait_for(sequence=1 << 50, timeout=0.05)
    follower.close()
    with enginelib.open(tmp_path / "other") as other:
        other.keyspace("x")
        with pytest.raises(enginelib.UsageError, match="follows database"):
            Follower(tmp_path / "follower", other)
    broken = Follower(tmp_path / "broken", iter([b"nonsense"]))
    with pytest.raises(ValueError, match="no encoded change"):
        broken.wait_for(sequence=1, timeout=20)
    assert isinstance(broken.error, ValueError)
    broken.close()


def test_what_comes_again_does_not_take_a_follower_back(leader, tmp_path):
    """Its LSN went back to that of the repetition, and who waited for a later one waited again."""
    churn(leader, random.Random(10), 20)
    frames = [codec.encode(change) for change in leader.changes()]
    last = codec.decode(frames[-1])
    for given in (frames, frames[:3]):
        follower = Follower(tmp_path / "follower", given)
        follower._thread.join(20)
        assert follower.error is None and (follower.position.sequence, follower.position.lsn) == (last.sequence, last.lsn)
        follower.close()
