"""The coordinator: everywhere or nowhere, whoever fails, and what is left in doubt is ended rightly."""

import errno
import threading

import pytest

import enginelib
from enginelib import HeuristicOutcome, OutcomeUnknown
from enginelib.twophase import Branch, Coordinator, DatabaseBranch


class Toy:
    """A participant in memory, that can be out of reach."""

    def __init__(self, name, fails=()):
        self.name, self.fails = name, list(fails)
        self.prepared, self.committed, self.asked = set(), set(), []

    def ask(self, what):
        self.asked.append(what)
        if what in self.fails:
            self.fails.remove(what)
            raise ConnectionError(f"{what}: {self.name} cannot be reached")

    def prepare(self, xid):
        self.ask("prepare")
        self.prepared.add(xid)

    def commit(self, xid):
        self.ask("commit")
        if xid in self.prepared:
            self.prepared.remove(xid)
            self.committed.add(xid)

    def rollback(self, xid):
        self.ask("rollback")
        self.prepared.discard(xid)

    def recover(self):
        self.ask("recover")
        return list(self.prepared)


class Crash(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def second(tmp_path):
    with enginelib.open(tmp_path / "second", lock_timeout=0.2) as second:
        yield second


@pytest.fixture
def branch(second):
    second.keyspace("k")
    return DatabaseBranch("second", second)


def put(branch, key=b"a", value=b"1"):
    branch.transaction.put(branch.database["k"], key, value)


def crashing_at(db, step, **more):
    """A coordinator that ends at a step: it does nothing any more."""
    ended = []

    def look(now):
        if now == step or ended:
            ended.append(now)
            raise Crash

    return Coordinator(db, "c", step=look, **more)


def clean(db, *branches):
    assert Coordinator(db, "c").decisions() == {}
    for branch in branches:
        assert list(branch.recover()) == []
        if isinstance(branch, DatabaseBranch):
            assert branch.database.outcomes() == []


def test_the_protocol_is_what_they_have():
    assert isinstance(Toy("t"), Branch) and isinstance(DatabaseBranch("d", None), Branch)
    assert not isinstance(object(), Branch)


def test_it_commits_everywhere(db, branch):
    toy = Toy("toy")
    steps = []
    put(branch)
    gtrid = Coordinator(db, "c", step=steps.append).commit(branch, toy)
    assert branch.database["k"].get(b"a") == b"1" and toy.committed == {f"{gtrid}.toy"}
    assert steps == ["prepare second", "prepare toy", "decide", "decided", "commit second", "commit toy", "forget", "forgotten"]
    clean(db, branch, toy)


def test_a_block(db, branch):
    toy = Toy("toy")
    coordinator = Coordinator(db, "c")
    with coordinator.transaction(branch, toy):
        put(branch)
    assert branch.database["k"].get(b"a") == b"1" and toy.asked == ["prepare", "commit"]
    with pytest.raises(ZeroDivisionError), coordinator.transaction(branch, toy):
        put(branch, b"b")
        raise ZeroDivisionError
    assert branch.database["k"].get(b"b") is None and toy.asked[2:] == ["rollback"]
    put(branch, b"b")
    coordinator.commit(branch, toy)
    clean(db, branch, toy)


@pytest.mark.parametrize("order", [1, -1])
def test_who_cannot_prepare_takes_all_back(db, branch, order):
    toy = Toy("toy", ["prepare"])
    put(branch)
    with pytest.raises(ConnectionError):
        Coordinator(db, "c").commit(*[branch, toy][::order])
    assert branch.database["k"].get(b"a") is None and toy.prepared == set()
    clean(db, branch, toy)


def test_who_cannot_be_told_to_roll_back_is_resolved(db, branch):
    toy, late = Toy("toy", ["rollback"]), Toy("late", ["prepare"])
    with pytest.raises(ConnectionError, match="prepare: late"):
        Coordinator(db, "c").commit(toy, late)
    assert len(toy.prepared) == 1
    found = Coordinator(db, "c").resolve(toy, late)
    assert len(found.rolled_back) == 1 and found.committed == [] and found.done
    clean(db, toy, late)


def test_it_tries_for_ever_to_tell(db, branch):
    """20 times is nothing: the waits grow, up to half a minute."""
    toy = Toy("toy", ["commit"] * 20)
    waits = []
    put(branch)
    Coordinator(db, "c", pause=waits.append).commit(branch, toy)
    assert toy.asked.count("commit") == 21 and len(toy.committed) == 1
    assert len(waits) == 20 and 0.02 < waits[0] < 0.06 and 15 <= waits[-1] <= 30
    assert all(sooner < later for sooner, later in zip(waits[:8:2], waits[2:10:2]))
    clean(db, branch, toy)


def test_stop_leaves_the_rest_to_resolve(db, branch):
    toy = Toy("toy", ["commit"] * 3)
    coordinator = Coordinator(db, "c", pause=lambda _: coordinator.stop())
    put(branch)
    gtrid = coordinator.commit(branch, toy)
    assert branch.database["k"].get(b"a") == b"1" and toy.prepared == {f"{gtrid}.toy"}
    assert coordinator.decisions() == {gtrid: ["second", "toy"]}
    found = Coordinator(db, "c").resolve(branch, toy)
    assert found.unreachable.keys() == {"toy"} and not found.done
    found = Coordinator(db, "c").resolve(branch)
    assert found.absent == {"toy"} and not found.done
    found = Coordinator(db, "c").resolve(branch, toy)
    assert found.committed == [f"{gtrid}.toy"] and found.done
    clean(db, branch, toy)


def test_waits_end_when_it_is_stopped_from_another_thread(db):
    toy = Toy("toy")
    toy.commit = lambda xid: toy.ask("commit") or tried.set() or (_ for _ in ()).throw(ConnectionError())
    tried = threading.Event()
    coordinator = Coordinator(db, "c")
    thread = threading.Thread(target=coordinator.commit, args=(toy,))
    thread.start()
    assert tried.wait(30)
    coordinator.stop()
    thread.join(30)
    assert not thread.is_alive() and len(toy.prepared) == 1


def test_settle_goes_on_until_all_are_reached(db):
    toy = Toy("toy", ["commit"])
    stopped = Coordinator(db, "c")
    stopped.stop()
    stopped.commit(toy, Toy("other"))
    toy.fails = ["recover"] * 3 + ["commit"] * 2
    waits = []
    found = Coordinator(db, "c", pause=waits.append).settle(toy, Toy("other"))
    assert found.done and len(waits) == 5 and len(toy.committed) == 1
    clean(db, toy)


STEPS = ["prepare second", "prepare toy", "decide", "decided", "commit second", "commit toy", "forget", "forgotten"]
AGAIN = ["recover second", "recover toy", "commit second", "commit toy", "roll back second", "roll back toy", "forget", "resolved"]


@pytest.mark.parametrize("again", ["", *AGAIN])
@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_and_at_any_of_the_resolution(place, branch, step, again):
    toy = Toy("toy")
    put(branch)
    with pytest.raises(Crash), crashing_at(place.db, step).transaction(branch, toy):
        pass
    db = place.again("crash")
    if again:
        came_there = False
        try:
            crashing_at(db, again).resolve(DatabaseBranch("second", branch.database), toy)
        except Crash:
            came_there = True
        assert came_there == reached(step, again) or step == "forgotten"  # that may be lost
        db = place.again("crash")
    branch.transaction.abort()
    found = Coordinator(db, "c").resolve(DatabaseBranch("second", branch.database), toy)
    assert found.done and not found.by_hand
    committed = STEPS.index(step) > STEPS.index("decide")
    assert branch.database["k"].get(b"a") == (b"1" if committed else None)
    assert len(toy.committed) == committed
    assert Coordinator(db, "c").decisions() == {} and toy.prepared == set() and branch.database.prepared() == branch.database.outcomes() == []


def reached(step, again):
    """Whether the resolution after a crash comes to a step."""
    n = STEPS.index(step)
    decided = n > STEPS.index("decide")
    return {
        "recover second": True,
        "recover toy": True,
        "resolved": True,
        "commit second": decided,
        "commit toy": decided,
        "roll back second": not decided and n > 0,
        "roll back toy": not decided and n > 1,
        "forget": decided,
    }[again]


def test_resolve_leaves_alone_what_is_going_on_and_what_is_others(db, second):
    toy = Toy("toy")
    here, run = db.database_id[:6].hex(), "0123456789ab"
    left = f"c.{here}.{run}.1.toy"
    others = {"somebody else's", f"c.{here}.{run}.1.other", f"d.{here}.{run}.1.toy", f"c.{here}.{run}.x.toy", f"c.{run}.{run}.1.toy", f"c.{here}.{run}.1.x.toy"}
    toy.prepared = {left, *others}
    found = []
    beside = Coordinator(db, "c")

    def look(step):
        if step in ("decide", "decided", "commit toy"):
            found.append(beside.resolve(toy, Toy("last")))

    gtrid = Coordinator(db, "c", step=look).commit(toy, Toy("last"))
    assert [f.rolled_back for f in found] == [[left], [], []] and not any(f.committed for f in found)
    assert toy.committed == {f"{gtrid}.toy"} and toy.prepared == others


@pytest.mark.parametrize("fails", ["", "commit"])
def test_one_alone_takes_one_phase(db, branch, fails):
    put(branch)
    steps = []
    if fails:
        with branch.database.transaction() as other:
            other.put(branch.database["k"], b"b", b"theirs")
        with pytest.raises(enginelib.WriteConflict), Coordinator(db, "c").transaction(branch):
            put(branch, b"b")
        assert branch.database["k"].get(b"a") is None
    else:
        Coordinator(db, "c", step=steps.append).commit(branch)
        assert steps == ["commit alone"] and branch.database["k"].get(b"a") == b"1"
    put(branch, b"c")
    Coordinator(db, "c").commit(branch)
    clean(db, branch)


@pytest.mark.parametrize("step", ["prepare toy", "decide", "decided", "commit toy"])
def test_a_branch_beside_the_decisions_commits_with_them(place, step):
    """The same database holds the decisions: its branch is not prepared, and is there exactly where the decision is."""
    place.db.keyspace("k")
    toy, here = Toy("toy"), DatabaseBranch("here", place.db)
    steps = []
    put(here)
    Coordinator(place.db, "c", step=steps.append).commit(here, toy)
    assert steps == ["prepare toy", "decide", "decided", "commit toy", "forget", "forgotten"]
    assert place.db["k"].get(b"a") == b"1" and len(toy.committed) == 1
    put(here, b"b")
    with pytest.raises(Crash):
        crashing_at(place.db, step).commit(here, toy)
    db = place.again("crash")
    found = Coordinator(db, "c").resolve(DatabaseBranch("here", db), toy)
    committed = step in ("decided", "commit toy")
    assert found.done and db["k"].get(b"b") == (b"1" if committed else None)
    assert len(toy.committed) == 1 + committed
    clean(db, toy, DatabaseBranch("here", db))


def test_a_conflict_at_the_decision_takes_all_back(db):
    ks = db.keyspace("k")
    toy, here = Toy("toy"), DatabaseBranch("here", db, isolation="serializable")
    here.transaction.get(ks, b"x")
    put(here)
    with db.transaction(isolation="serializable") as theirs:
        theirs.get(ks, b"a")
        theirs.put(ks, b"x", b"1")
    with pytest.raises(enginelib.SerializationFailure):
        Coordinator(db, "c").commit(here, toy)
    assert toy.asked == ["prepare", "rollback"] and ks.get(b"a") is None
    clean(db, toy, here)


def test_a_decision_that_may_be_durable_stays_in_doubt_until_it_is_known(tmp_path, branch):
    from enginelib._native.base.faultvfs import FaultVfs

    vfs, toy = FaultVfs(), Toy("toy")
    db = enginelib.Database("/db", vfs=vfs, background=False, segment_size=1 << 20)
    coordinator = Coordinator(db, "c", step=lambda step: step == "decide" and vfs.inject(1, errno.EIO))  # the write, then the sync
    put(branch)
    with pytest.raises(OutcomeUnknown):
        coordinator.commit(branch, toy)
    assert len(toy.prepared) == len(branch.recover()) == 1
    assert coordinator.resolve(DatabaseBranch("second", branch.database), toy).rolled_back == []
    assert len(toy.prepared) == len(branch.recover()) == 1
    db.abandon()


def test_a_promise_that_may_be_durable_is_taken_back(db, branch):
    """That the log of a participant fails is no doubt about the decision, which is not made."""
    toy = Toy("toy")
    unsure = Toy("unsure")

    def prepare(xid):
        unsure.xid = xid
        raise OutcomeUnknown("its log failed")

    unsure.prepare = prepare
    coordinator = Coordinator(db, "c")
    put(branch)
    with pytest.raises(OutcomeUnknown):
        coordinator.commit(branch, toy, unsure)
    assert toy.asked == ["prepare", "rollback"] and unsure.asked == ["rollback"]
    unsure.prepared = {unsure.xid}  # it was
    assert coordinator.resolve(unsure).rolled_back == [unsure.xid]
    clean(db, branch, toy, unsure)


@pytest.mark.parametrize("beside", [True, False])
def test_an_interrupt_once_the_decision_is_durable(db, branch, beside, monkeypatch):
    db.keyspace("k")
    toy, here = Toy("toy"), DatabaseBranch("here", db) if beside else branch
    put(here)
    coordinator = Coordinator(db, "c")
    decide = coordinator._decide

    def interrupted(*args):
        decide(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(coordinator, "_decide", interrupted)
    with pytest.raises(KeyboardInterrupt):
        coordinator.commit(here, toy)
    assert len(toy.committed) == 1 and here.database["k"].get(b"a") == b"1"
    monkeypatch.undo()
    put(here, b"b")
    coordinator.commit(here, toy)
    assert len(toy.committed) == 2
    clean(db, toy, here)


def test_a_branch_that_was_ended_by_hand_is_reported(db, branch, second):
    toy = Toy("toy")

    def by_hand(step):
        if step == "decided":
            (found,) = second.prepared()
            second.rollback_prepared(found.xid, heuristic=True)

    put(branch)
    with pytest.raises(HeuristicOutcome):
        Coordinator(db, "c", step=by_hand).commit(branch, toy)
    assert len(toy.committed) == 1
    coordinator = Coordinator(db, "c")
    (gtrid,) = coordinator.decisions()
    found = coordinator.resolve(DatabaseBranch("second", second), toy)
    assert found.by_hand == {f"{gtrid}.second": "heuristically_rolled_back"} and found.done
    assert gtrid in coordinator.decisions()
    coordinator.forget(gtrid)
    coordinator.resolve(DatabaseBranch("second", second), toy)
    clean(db, toy, branch)


def test_commits_by_hand_are_judged_by_the_decision(place, second):
    second.keyspace("k")
    for step, wrong in (("decided", False), ("decide", True)):
        branch, toy = DatabaseBranch("second", second), Toy("toy")

        def by_hand(now, step=step):
            if now == step:
                (found,) = second.prepared()
                second.commit_prepared(found.xid, heuristic=True)
                raise KeyboardInterrupt

        put(branch, step.encode())
        with pytest.raises((KeyboardInterrupt, enginelib.Error)):
            Coordinator(place.db, "c", step=by_hand).commit(branch, toy)
        db = place.again("crash")
        found = Coordinator(db, "c").resolve(DatabaseBranch("second", second), toy)
        assert list(found.by_hand.values()) == ["heuristically_committed"] * wrong
        assert len(second.outcomes()) == wrong


def test_work_that_changed_nothing(db, branch, second):
    toy = Toy("toy")
    branch.transaction.get(second["k"], b"a")
    Coordinator(db, "c").commit(branch, toy)
    assert second.outcomes() == [] and len(toy.committed) == 1
    stopped = Coordinator(db, "c")
    stopped.stop()
    toy.fails = ["commit"]
    branch.transaction.get(second["k"], b"a")
    stopped.commit(branch, toy)
    found = Coordinator(db, "c").resolve(DatabaseBranch("second", second), toy)
    assert found.done and not found.by_hand and len(toy.committed) == 2
    clean(db, branch, toy)


def test_names(db):
    for name in "", "a b", "x" * 41, "a.b", "ä":
        with pytest.raises(ValueError, match="1 to 40"):
            Coordinator(db, name)
        with pytest.raises(ValueError, match="1 to 40"):
            Coordinator(db).commit(Toy("fine"), Toy(name))
    with pytest.raises(TypeError):
        Coordinator(db, 1)
    for branches in (), (Toy("a"), Toy("a")):
        with pytest.raises(ValueError, match="different names"):
            Coordinator(db).commit(*branches)
    xid = f"{'x' * 40}.{'0' * 12}.{'0' * 12}.{10**9}.{'y' * 40}"
    assert len(xid) <= 200


def test_threads(db, second):
    ks = second.keyspace("k")
    coordinator = Coordinator(db, "c")
    problems = []

    def work(n):
        try:
            branch, toy = DatabaseBranch("second", second), Toy("toy")
            for i in range(10):
                with coordinator.transaction(branch, toy):
                    branch.transaction.put(ks, b"%d %d" % (n, i), b"1")
                if i % 3 == 0:
                    coordinator.resolve(DatabaseBranch("second", second))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems and len(ks) == 40
    coordinator.resolve(DatabaseBranch("second", second), Toy("toy"))
    clean(db, DatabaseBranch("second", second))
