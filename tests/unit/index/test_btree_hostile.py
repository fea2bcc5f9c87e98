"""Pages that carry good checksums and contradict one another: named, never followed into a crash, a loop or a wrong answer."""
import random
import struct

import pytest
from enginelib._native.base import status
from enginelib._native.index.treedoor import BTreeDoor, NodeDoor
from enginelib._native.page.layout_door import check

E_CORRUPT = 20


def built(n=3000, page_size=4096, cache=16 << 20):
    door = BTreeDoor(page_size, cache_bytes=cache)
    for i in range(n):
        door.put(b"key%05d" % (2 * i), b"v" * 30)
    return door


def planted(door, pid, page):
    """The page lies on disk with a good checksum, and nothing is in memory."""
    door.overwrite(pid, page)
    door.checkpoint()
    door.fresh_pool()


def refused(call, *args):
    with pytest.raises(Exception):  # noqa: B017
        call(*args)
    error = status.last_error()
    assert error["code"] == E_CORRUPT
    return error


def at(page, offset, fmt, value):
    return page[:offset] + struct.pack(fmt, value) + page[offset + struct.calcsize(fmt):]


def child_of(door, pid, i):
    return door.records(pid)[i][1]


def leaf_like(page, lower, upper):
    """The same leaf with other fences."""
    size = len(page)
    old = NodeDoor(size)
    old.load(page)
    node = NodeDoor(size, 0, lower, upper, pid=struct.unpack_from("<Q", page, 24)[0],
                    next=struct.unpack_from("<Q", page, 32)[0], keyspace=struct.unpack_from("<I", page, 20)[0])
    for key, flags, value in old.records():
        if node.within(key):
            assert node.put(key, value, flags)
    return node.bytes()


def spoil(door, how):
    """Plants one contradiction; returns the page that is to be named and a key that leads there."""
    root = door.tree.root
    records = door.records(root)
    key, pid = records[3]
    upper = records[4][0]
    page = door.page(pid)
    if how == "keyspace":
        planted(door, pid, at(page, 20, "<I", 99))
    elif how == "wider lower fence":
        planted(door, pid, leaf_like(page, records[2][0], upper))
    elif how == "narrower upper fence":
        planted(door, pid, leaf_like(page, key, upper[:-1] + bytes([upper[-1] - 1])))
    elif how == "no fences":
        planted(door, pid, leaf_like(page, None, None))
    elif how in ("neighbour's child", "the root as a child", "a page never given out"):
        target = {"neighbour's child": records[2][1], "the root as a child": root, "a page never given out": 1 << 40}[how]
        rootpage = door.page(root)
        offset = rootpage.index(struct.pack("<Q", pid), 48 + 8 * len(records))
        planted(door, root, at(rootpage, offset, "<Q", target))
        pid = target if how != "the root as a child" else root
    elif how == "a root with fences":
        planted(door, root, leaf_root_with_fences(door))
        pid = root
    return pid, key


def leaf_root_with_fences(door):
    node = NodeDoor(door.store.page_size, 1, b"k", b"l", pid=door.tree.root, keyspace=5, leftmost=child_of(door, door.tree.root, 0))
    return node.bytes()


WAYS = ["keyspace", "wider lower fence", "narrower upper fence", "no fences", "neighbour's child", "the root as a child",
        "a page never given out", "a root with fences"]


@pytest.mark.parametrize("how", WAYS)
def test_every_operation_names_the_page_that_contradicts_its_parent(how):
    for operation in "get", "put", "remove", "seek", "get_many", "scan":
        if (how, operation) == ("neighbour's child", "scan"):
            continue                             # held against its parent at its own slot first: the check finds it
        door = built()
        pid, key = spoil(door, how)
        argument = {"get": (key,), "put": (key, b"v"), "remove": (key,), "seek": (key, "ge"), "get_many": ([key],), "scan": ()}
        error = refused(getattr(door, operation), *argument[operation])
        if how != "the root as a child":
            assert str(pid) in error["text"], (operation, error)


@pytest.mark.parametrize("how", WAYS)
def test_the_check_names_the_page_and_goes_on_behind_it(how):
    door = built()
    sound_report, _ = door.check()
    pid, _ = spoil(door, how)
    report, findings = door.check()
    assert findings
    assert any(f["page"] == pid for f in findings if "page" in f)
    assert all(f["keyspace"] == 5 and f["file"] == "pages.dat" for f in findings)
    if pid != door.tree.root:
        assert report["keys"] >= sound_report["keys"] - 3 * 4096 // 40
    else:
        assert report["keys"] == 0


def test_a_level_that_does_not_follow_is_refused():
    door = built(40000, cache=64 << 20)
    root = door.tree.root
    assert door.check()[0]["depth"] == 3
    key, pid = door.records(root)[0]
    planted(door, pid, at(door.page(pid), 1, "<B", 2))
    assert str(pid) in refused(door.get, key)["text"]
    assert any(f["page"] == pid and "level" in f["what"] for f in door.check()[1])


def test_a_sibling_link_that_leads_elsewhere_is_found():
    door = built()
    pid = child_of(door, door.tree.root, 2)
    planted(door, pid, at(door.page(pid), 32, "<Q", door.tree.root))
    _, findings = door.check()
    assert [f["page"] for f in findings] == [pid]
    assert "sibling" in findings[0]["what"]


def test_the_check_steps_over_a_bad_first_leaf():
    door = built()
    pid = struct.unpack_from("<Q", door.page(door.tree.root), 40)[0]
    lost = len(door.records(pid))
    planted(door, pid, at(door.page(pid), 20, "<I", 99))
    report, findings = door.check()
    assert [f["page"] for f in findings] == [pid]
    assert report["keys"] == 3000 - lost


def test_a_damaged_page_is_found_by_its_checksum_and_stepped_over():
    door = built()
    pid = child_of(door, door.tree.root, 2)
    lost = len(door.records(pid))
    planted(door, pid, at(door.page(pid), 6, "<H", 1))           # more garbage than there can be: layout_check refuses
    report, findings = door.check()
    assert [f["page"] for f in findings] == [pid]
    assert report["keys"] == 3000 - lost


@pytest.mark.parametrize("seed", range(40))
def test_pages_damaged_at_random_are_survived_by_every_operation(seed):
    """Many bytes are changed behind good checksums; whatever passes the checks is worked on: no crash, no endless loop."""
    rng = random.Random(seed)
    door = built(2000, cache=rng.choice([32 * 4400, 4 << 20]))
    report, _ = door.check()
    pids = sorted(report["pids"])
    for _ in range(rng.randrange(1, 12)):
        pid = rng.choice(pids)
        page = door.page(pid)
        if page is None:
            continue
        for _ in range(50):
            count, low = struct.unpack_from("<HH", page, 2)
            where = rng.choice([rng.randrange(0, 48), rng.randrange(48, 48 + 8 * max(count, 1)), rng.randrange(min(low, 4095), 4096)])
            damaged = page[:where] + bytes([rng.randrange(256)]) + page[where + 1:]
            if damaged != page and check(damaged, pid) is None:
                door.overwrite(pid, damaged)
                break
    door.checkpoint()
    door.fresh_pool()
    trials = 0
    for _ in range(600):
        key = b"key%05d" % rng.randrange(4100) + rng.choice([b"", b"\0"])
        operation = rng.choice(["get", "put", "remove", "seek", "get_many"])
        try:
            if operation == "put":
                door.put(key, b"w" * rng.randrange(200))
            elif operation == "seek":
                door.seek(key, rng.choice(["ge", "gt", "le", "lt"]))
            elif operation == "get_many":
                door.get_many([key])
            else:
                getattr(door, operation)(key)
        except Exception:
            trials += 1
    for reverse in False, True:
        try:
            door.scan(reverse)
        except Exception:
            trials += 1
    door.check(False)
    try:
        for _ in range(1000):
            if door.destroy(10):
                break
    except Exception:
        trials += 1
