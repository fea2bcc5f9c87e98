"""What another thread may do while one is reading or writing without the latch, done at exactly that moment."""
import threading

import pytest
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.base.memvfs import MemoryVfs
from enginelib._native.page.pool_door import PoolDoor
from enginelib._native.page.store_door import StoreDoor
from enginelib._native.page.store_hook import HookVfs

PATH = "/pages.dat"


@pytest.fixture
def vfs():
    vfs = HookVfs(MemoryVfs())
    yield vfs
    assert vfs.errors == []


def on(vfs, name, action, skip=0):
    """Runs action() once, in the next call of that name."""
    left = [skip]
    done = []

    def hook(called, offset, n):
        if called != name:
            return True
        if left[0]:
            left[0] -= 1
            return True
        done.append(action())
        return False

    vfs.arm(hook)
    return done


def fill(pool, n):
    return {pid: v for v in (b"value %d" % i for i in range(n)) for pid in [pool.new(v)]}


def contents(pool, pages):
    return {pid: pool.get(pid) for pid in pages}


def finish(pool, pages):
    assert pool.pool_check() == []
    assert contents(pool, pages) == pages
    pool.checkpoint()
    assert pool.check(pages) == []
    assert contents(pool, pages) == pages


def test_a_page_changed_while_it_is_written_out_keeps_the_change(vfs):
    pool = PoolDoor(vfs, PATH, create=True)
    pages = fill(pool, 16)

    def change():
        for pid in pages:
            if pool.try_put(pid, b"changed"):
                pages[pid] = b"changed"

    done = on(vfs, "write", change)
    pool.make_free(18)
    assert done and b"changed" in pages.values()
    assert pool.pool_check() == []
    pool.make_free(20, rollback=True)
    finish(pool, pages)


@pytest.mark.parametrize("then_freeze", [False, True])
def test_a_page_freed_while_it_is_written_out_stays_free(vfs, then_freeze):
    pool = PoolDoor(vfs, PATH, create=True)
    pages = fill(pool, 24)
    image = []

    def free():
        for pid in list(pages)[::2]:
            pool.forget(pid)
            del pages[pid]
        if then_freeze:
            image.append(pool.freeze())

    assert on(vfs, "write", free) == []
    pool.make_free(10)
    assert len(pages) == 12
    if then_freeze:
        pool.write_frozen(image[0])
        pool.publish(image[0])
        reader = StoreDoor(vfs, PATH, read_only=True)
        assert reader.check(pages) == []
    finish(pool, pages)


def test_a_pid_freed_while_it_is_written_is_not_given_out_before_the_write_has_ended(vfs):
    pool = PoolDoor(vfs, PATH, create=True)
    pages = fill(pool, 24)
    new = []

    def free():
        for pid in list(pages):
            pool.forget(pid)
        for i in range(5):
            pid = pool.try_new(b"new %d" % i)
            if pid:
                new.append(pid)
        blob = pool.alloc()
        new.append(blob)

    assert on(vfs, "write", free, skip=1) == []  # the first is the spare run
    pool.make_free(8)
    assert new and not set(new) & set(pages)


def test_a_page_forgotten_while_it_is_read_is_gone(vfs):
    pool = PoolDoor(vfs, PATH, create=True)
    pages = fill(pool, 60)
    pool.checkpoint()
    victim = next(pid for pid in pages if not pool.resident(pid))
    done = on(vfs, "read", lambda: pool.forget(victim))
    assert pool.get(victim) is None
    assert done == [None] and pool.pool_check() == []
    del pages[victim]
    finish(pool, pages)


def test_a_checkpoint_waits_for_a_page_that_was_being_written_out_at_the_freeze(vfs):
    pool = PoolDoor(vfs, PATH, create=True)
    pages = fill(pool, 24)
    reached, go_on = threading.Event(), threading.Event()
    on(vfs, "write", lambda: (reached.set(), go_on.wait(20)), skip=1)
    evicting = threading.Thread(target=pool.make_free, args=(8,))
    evicting.start()
    assert reached.wait(20)
    image = pool.freeze()
    writing = threading.Thread(target=pool.write_frozen, args=(image,))
    writing.start()
    writing.join(0.2)
    assert writing.is_alive()
    for pid in pages:
        pool.try_put(pid, b"newer")
    go_on.set()
    writing.join(20)
    evicting.join(20)
    pool.publish(image)
    reader = PoolDoor(vfs, PATH, read_only=True)
    assert contents(reader, pages) == pages and reader.check(pages) == []
    assert pool.pool_check() == []


def test_clones_of_pages_that_are_being_written_are_written_after_them(vfs):
    pool = PoolDoor(vfs, PATH, create=True)
    pages = fill(pool, 8)
    reached, go_on = threading.Event(), threading.Event()
    on(vfs, "write", lambda: (reached.set(), go_on.wait(20)), skip=1)
    evicting = threading.Thread(target=pool.make_free, args=(26,))
    evicting.start()
    assert reached.wait(20)
    for pid in pages:
        assert pool.try_put(pid, b"clone")
        pages[pid] = b"clone"
    image = pool.freeze()
    frozen = dict(pages)
    for pid in list(pages):
        if pool.try_put(pid, b"clone of a clone"):
            pages[pid] = b"clone of a clone"
    assert b"clone of a clone" in pages.values() and pool.pool_check() == []
    writing = threading.Thread(target=pool.write_frozen, args=(image,))
    writing.start()
    writing.join(0.1)
    assert writing.is_alive()
    go_on.set()
    writing.join(20)
    evicting.join(20)
    pool.publish(image)
    reader = PoolDoor(vfs, PATH, read_only=True)
    assert contents(reader, frozen) == frozen and reader.check(frozen) == []
    finish(pool, pages)


def test_two_threads_that_want_the_same_page_read_it_once(vfs):
    pool = PoolDoor(vfs, PATH, create=True)
    pages = fill(pool, 60)
    pool.checkpoint()
    victim = next(pid for pid in pages if not pool.resident(pid))
    loads = pool.stats()["loads"]
    reached, go_on, found = threading.Event(), threading.Event(), []
    on(vfs, "read", lambda: (reached.set(), go_on.wait(20)))
    threads = [threading.Thread(target=lambda: found.append(pool.get(victim))) for _ in range(4)]
    for t in threads:
        t.start()
    assert reached.wait(20)
    assert found == []
    go_on.set()
    for t in threads:
        t.join(20)
    assert found == [pages[victim]] * 4 and pool.stats()["loads"] == loads + 1


@pytest.mark.parametrize("call", range(8))
@pytest.mark.parametrize("name", ["write", "sync"])
def test_changes_at_any_moment_of_publishing_are_not_in_the_image(name, call):
    inner = FaultVfs()
    vfs = HookVfs(inner)
    pool = PoolDoor(vfs, PATH, create=True)
    inner.py_sync_dir("/")
    pages = fill(pool, 20)
    for i in range(400):                              # several map pages
        pages[pool.new(b"more")] = b"more"
        if i % 50 == 0:
            pool.make_free(8)
    pool.checkpoint()
    for pid in list(pages)[::30]:
        pool.put(pid, b"in the image")
        pages[pid] = b"in the image"
    image = pool.freeze()
    frozen = dict(pages)
    pool.write_frozen(image)
    done = []

    def change():
        for pid in list(pages)[::7]:
            if pool.try_put(pid, b"after"):
                pages[pid] = b"after"
        for pid in list(pages)[::11]:
            pool.forget(pid)
            del pages[pid]
        pid = pool.try_new(b"new")
        if pid:
            pages[pid] = b"new"

    done = on(vfs, name, change, call)
    pool.publish(image, b"meta")
    vfs.arm(None)
    assert vfs.errors == []
    after = PoolDoor(HookVfs(inner.crash_image(inner.mutations, 1)), PATH)
    assert after.meta() == b"meta"
    assert contents(after, frozen) == frozen and after.check(frozen) == []
    finish(pool, pages)
    assert done or call > 1


def test_a_page_written_while_compaction_copies_it_keeps_the_new_content(vfs):
    for name in ("read", "write"):
        store = StoreDoor(vfs, PATH + name, create=True)
        pids = [store.alloc() for _ in range(100)]
        store.write(dict.fromkeys(pids, b"old" * 200))
        for pid in pids[:60]:
            store.free(pid)
        store.checkpoint()
        store.checkpoint()
        live = pids[60:]

        def change(store=store, live=live):
            store.write({live[-1]: b"new" * 200})
            store.free(live[-2])

        done = on(vfs, name, change)
        store.compact()
        done += on(vfs, name, change)
        store.compact()
        assert done
        assert store.read(live[-1]).startswith(b"new")
        live.remove(live[-2])
        assert store.check(live) == []


def test_compaction_gives_way_to_a_checkpoint_that_begins(vfs):
    store = StoreDoor(vfs, PATH, create=True)
    pids = [store.alloc() for _ in range(100)]
    store.write(dict.fromkeys(pids, b"old" * 200))
    for pid in pids[:60]:
        store.free(pid)
    store.checkpoint()
    store.checkpoint()
    image = []
    on(vfs, "write", lambda: image.append(store.freeze()))
    assert store.compact() == 0
    store.publish(image[0])
    assert store.check(pids[60:]) == []
    assert store.compact() > 0


def test_the_file_does_not_grow_while_its_end_is_cut_off(vfs):
    store = StoreDoor(vfs, PATH, create=True)
    pids = [store.alloc() for _ in range(100)]
    store.write(dict.fromkeys(pids, b"old" * 200))
    store.checkpoint()
    for pid in pids[10:]:
        store.free(pid)
    store.checkpoint()
    store.checkpoint()
    reached, go_on = threading.Event(), threading.Event()
    on(vfs, "truncate", lambda: (reached.set(), go_on.wait(20)))
    trimming = threading.Thread(target=store.trim)
    trimming.start()
    assert reached.wait(20)
    big = store.alloc()
    writing = threading.Thread(target=store.write_blob, args=(big, b"b" * 400_000))
    writing.start()
    writing.join(0.2)
    assert writing.is_alive()
    go_on.set()
    trimming.join(20)
    writing.join(20)
    assert store.read_blob(big, 400_000) == b"b" * 400_000
    assert store.check([*pids[:10], big]) == []


def test_pages_freed_while_the_free_space_is_being_found_are_free(vfs):
    store = StoreDoor(vfs, PATH, create=True)
    pids = [store.alloc() for _ in range(1000)]
    store.write(dict.fromkeys(pids, b"old" * 200))
    store.checkpoint()
    store.close()
    for call in range(5):
        store = StoreDoor(vfs, PATH)
        gone = [pids.pop(), pids.pop(3), pids.pop(500)]
        done = on(vfs, "read", lambda store=store, gone=gone: [store.free(pid) for pid in gone], call)
        store.write({pids[0]: b"new" * 200})
        vfs.arm(None)
        if not done:
            for pid in gone:
                store.free(pid)
        store.checkpoint()
        assert store.check(pids) == []
        store.close()
        store = StoreDoor(vfs, PATH)
        assert store.check(pids) == []
        store.close()
