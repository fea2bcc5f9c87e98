"""Relaxed switches: an OS load waits for no disk, and nothing that was acknowledged is lost nor any crash taken for damage."""
import errno
import random
import struct

import pytest
from loghelp import new_log, put, read, reopen, segments, values
from test_reader import clone, rewritten

LAZY, OS, SYNC = 0, 1, 2
SMALL = 4096
OPTIONS = {"segment_size": SMALL, "buffer_size": 512}


def flagged(vfs, path):
    return vfs.files()[path][56] == 1


def write_some(vfs, log, rng, numbers, syncs, release=False):
    """Runs of one level over several segments, prepared ahead or not, recycled or not."""
    level = OS
    for i in numbers:
        if rng.random() < 0.08:
            level = rng.choice((LAZY, OS, OS, OS, SYNC) if syncs else (LAZY, OS))
        put(log, i, size=rng.randrange(250), flush=level)
        if level == LAZY:
            log.flush(LAZY)
        else:
            vfs.set_marker((level, i + 1))
        if rng.random() < 0.1:
            log.prepare_ahead()


def history(seed, n=110, syncs=True):
    rng = random.Random(seed)
    vfs, log = new_log(**OPTIONS)
    vfs.set_marker(("open", 0))
    write_some(vfs, log, rng, range(n), syncs)
    return vfs


def acknowledged(vfs, cut, level):
    return max([n for at, (mark, n) in vfs.markers() if at <= cut and (mark == SYNC or mark == level)], default=0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("mode", ["kill", "power", "lost", "all"])
def test_every_crash_of_a_mixed_load(seed, mode):
    vfs = history(seed, syncs=seed % 4 != 3)
    assert sum(flagged(vfs, p) for p in segments(vfs)) >= 1
    for cut in range(vfs.markers()[0][0], vfs.mutations + 1):
        for again in range(1 if mode in ("kill", "all") else 3):
            image = vfs.crash_image(cut, seed * 7919 + cut * 3 + again, mode)
            got = values(read(image, segment=SMALL))
            assert got == list(range(len(got)))
            assert len(got) >= acknowledged(vfs, cut, OS if mode in ("kill", "all") else SYNC), (cut, mode)


@pytest.mark.parametrize("first", ["kill", "power"])
@pytest.mark.parametrize("seed", [21, 22, 23])
def test_recovery_from_relaxed_switches_may_crash_anywhere(first, seed):
    vfs = history(seed, n=80)
    rng = random.Random(seed)
    for cut in rng.sample(range(vfs.markers()[0][0], vfs.mutations + 1), 25):
        image = vfs.crash_image(cut, cut + seed, first)
        bound = acknowledged(vfs, cut, SYNC)
        found, log = reopen(image, **OPTIONS)
        whole = values(found)
        assert len(whole) >= acknowledged(vfs, cut, OS if first == "kill" else SYNC)
        started = image.mutations
        # What recovery has shown stays, whatever is lost from now on.
        for mode in ("power", "lost"):
            assert values(read(image.crash_image(started, cut, mode), segment=SMALL)) == whole
        put(log, 1000, flush=SYNC)
        for cut2 in range(image.mutations + 1):
            for mode in ("kill", "power", "lost"):
                second = image.crash_image(cut2, cut2 * 3 + 1, mode)
                found2, log2 = reopen(second, **OPTIONS)
                got = values(found2)
                if cut2 == image.mutations:
                    assert got == [*whole, 1000]
                elif cut2 >= started:
                    assert got in (whole, [*whole, 1000])
                else:
                    assert got == whole[:len(got)] and len(got) >= bound
                base = second.mutations
                for n in range(2000, 2040):
                    put(log2, n, size=150, flush=OS)
                if cut2 % 4 == 0:
                    for cut3 in range(0, second.mutations + 1, 3):
                        third = second.crash_image(cut3, cut3 + cut, rng.choice(("power", "lost")))
                        again = values(read(third, segment=SMALL))
                        assert again == [*got, *range(2000, 2040)][:len(again)]
                        assert len(again) >= (len(got) if cut3 >= base or (cut2 >= started and cut2 == image.mutations) else bound)


@pytest.mark.parametrize("seed", range(40))
def test_many_lives(seed):
    """Life after life of mixed loads, each ended by a crash, some with a crash in the recovery: everything that was ever
    acknowledged (and not lost with the power) is there, in order, and nothing dead comes back."""
    rng = random.Random(1000 + seed)
    vfs, log = new_log(**OPTIONS)
    opened, expected, number = vfs.mutations, [], 0
    for _life in range(10):
        marks = [(opened, len(expected), len(expected))]
        for _ in range(rng.randrange(70)):
            level = rng.choice((LAZY, OS, OS, OS, OS, OS)) if rng.random() < 0.97 else SYNC
            put(log, number, size=rng.randrange(300), flush=level)
            if level == LAZY:
                log.flush(LAZY)
            expected.append(number)
            number += 1
            if level:
                marks.append((vfs.mutations, len(expected) if level == SYNC else marks[-1][1], len(expected)))
            if rng.random() < 0.15:
                log.prepare_ahead()
        mode = rng.choice(("kill", "power", "power", "lost"))
        cut = max(opened, vfs.mutations - rng.choice((0, rng.randrange(40))))
        at_cut = [m for m in marks if m[0] <= cut][-1]
        bound = at_cut[2] if mode == "kill" else at_cut[1]
        image = vfs.crash_image(cut, rng.randrange(1 << 30), mode)
        for _ in range(rng.randrange(3)):            # recoveries that crash
            found, log = reopen(image, **OPTIONS)
            assert values(found) == expected[:len(values(found))] and len(values(found)) >= bound
            cut = rng.randrange(image.mutations + 1)
            again = rng.choice(("kill", "power", "lost"))
            if cut == image.mutations:               # it had finished: what it showed is durable
                expected = values(found)
                bound = len(expected)
            elif again != "kill":
                bound = min(bound, at_cut[1])
            image = image.crash_image(cut, rng.randrange(1 << 30), again)
        found, log = reopen(image, **OPTIONS)
        got = values(found)
        assert got == expected[:len(got)] and len(got) >= bound
        expected, vfs, opened = got, image, image.mutations
    log.flush(SYNC)
    assert values(read(vfs, segment=SMALL)) == expected


def test_an_os_load_syncs_nothing():
    vfs, log = new_log(**OPTIONS)
    put(log, 0, flush=OS)
    before = len(vfs.trace())
    for i in range(1, 300):
        put(log, i, size=100, flush=OS)
        if i % 30 == 0:
            log.prepare_ahead()
    calls = vfs.trace()[before:]
    assert len(segments(vfs)) > 10
    assert not [c for c in calls if c[0].startswith("sync")]
    assert log.state()["syncs"] == 0 and log.state()["synced"] == 64
    assert values(read(vfs, segment=SMALL)) == list(range(300))
    assert values(read(vfs.crash_image(vfs.mutations, 0, "kill"), segment=SMALL)) == list(range(300))


def test_a_sync_after_relaxed_switches_is_in_order_and_only_then_counts():
    vfs, log = new_log(**OPTIONS)
    for i in range(100):
        put(log, i, size=100, flush=OS)
    paths = segments(vfs)[:-1] if log.state()["next"] else segments(vfs)
    assert len(paths) > 3
    before = len(vfs.trace())
    put(log, 100, flush=SYNC)
    calls = [(c[0], c[1]) for c in vfs.trace()[before:] if c[0].startswith("sync")]
    assert calls == [*(("sync", p) for p in paths[:-1]), ("sync_dir", "/log"), ("sync", paths[-1])]
    closed = [c[1] for c in vfs.trace()[before:] if c[0] == "close"]
    assert closed == paths[:-1]
    assert log.state()["synced"] == log.state()["end"]
    before = len(vfs.trace())
    put(log, 101, flush=SYNC)
    assert [c[0] for c in vfs.trace()[before:]] == ["write", "sync"]
    assert values(read(vfs.crash_image(vfs.mutations, 0, "lost"), segment=SMALL)) == list(range(102))


def test_a_sync_load_after_an_os_load_switches_strictly_again():
    vfs, log = new_log(**OPTIONS)
    for i in range(60):
        put(log, i, size=100, flush=OS)
    n = len(segments(vfs))
    for i in range(60, 160):
        put(log, i, size=100, flush=SYNC)
    paths = segments(vfs)
    assert all(flagged(vfs, p) for p in paths[1:n - 1])
    assert not any(flagged(vfs, p) for p in paths[n + 1:])
    for cut in range(vfs.mutations - 200, vfs.mutations + 1):
        got = values(read(vfs.crash_image(cut, cut, "power"), segment=SMALL))
        assert got == list(range(len(got))) and len(got) >= 60


def test_segments_waiting_for_a_sync_are_bounded():
    vfs, log = new_log(**OPTIONS)
    for i in range(3000):
        put(log, i, size=100, flush=OS)
    syncs = [c for c in vfs.trace() if c[0] == "sync"]
    assert len(segments(vfs)) > 66 and 64 <= len(syncs) <= 64 * (len(segments(vfs)) // 64 + 1) + 10
    log.close()
    opened = sum(c[0] == "open" and c[4] == 0 for c in vfs.trace())
    assert opened == sum(c[0] == "close" for c in vfs.trace())


def test_a_failed_sync_of_an_older_segment_is_final():
    def loaded():
        vfs, log = new_log(**OPTIONS)
        put(log, 0, flush=SYNC)
        for i in range(1, 100):
            put(log, i, size=100, flush=OS)
        return vfs, log

    probe, log = loaded()
    first, calls = probe.calls, len(probe.trace())
    put(log, 100, flush=SYNC)
    syncs = [n for n, c in enumerate(probe.trace()[calls:]) if c[0].startswith("sync")]
    assert len(syncs) > 4 and probe.calls - first == len(probe.trace()) - calls
    for nth in syncs:
        vfs, log = loaded()
        synced = log.state()["synced"]
        vfs.inject(nth, errno.EIO)
        with pytest.raises(Exception, match="failed for good"):
            put(log, 100, flush=SYNC)
        assert log.state()["failed"] and log.state()["synced"] == synced
        made = vfs.calls
        with pytest.raises(Exception, match="failed for good"):
            log.flush(SYNC)
        assert vfs.calls == made
        image = vfs.crash_image(vfs.mutations, nth, "kill")
        found, log2 = reopen(image, **OPTIONS)
        assert values(found) == list(range(101))
        assert values(read(image.crash_image(image.mutations, 0, "lost"), segment=SMALL)) == values(found)
        log.close()
        handles = [sum(c[0] == kind and c[4] == 0 for c in vfs.trace()) for kind in ("open", "close")]
        assert handles[0] == handles[1]


def test_every_bit_flip_below_a_known_sync_is_found_across_relaxed_switches():
    vfs, log = new_log(**OPTIONS, names=b"")
    lsns = [put(log, i, size=150, flush=OS) for i in range(50)]
    log.flush(SYNC)
    put(log, 50, flush=SYNC)                     # its group knows
    paths = segments(vfs)
    assert len(paths) >= 3 and flagged(vfs, paths[1])
    whole = vfs.files()
    ends = {}
    for n in lsns:
        path = f"/log/{n // SMALL * SMALL:016x}.wal"
        ends[path] = max(ends.get(path, 0), n % SMALL + 100)
    image = clone(vfs)
    for path in ends:
        for at in range(0, ends[path], 3):
            image.corrupt(path, at, 1 << (at % 8))
            with pytest.raises(Exception, match="log"):
                read(image, segment=SMALL)
            image.corrupt(path, at, 1 << (at % 8))
    for path in paths[1:]:
        with pytest.raises(Exception, match="log"):
            read(rewritten(vfs, path, None if path != paths[-1] else bytes(64) + whole[path][64:]), segment=SMALL)


def torn(n=60):
    """A log whose first segment is torn behind record 2, with dead segments behind it that were never synced."""
    vfs, log = new_log(**OPTIONS)
    put(log, 0, flush=SYNC)
    lsns = [0, *(put(log, i, size=100, flush=OS) for i in range(1, n))]
    path = segments(vfs)[0]
    vfs.corrupt(path, lsns[3] + 5, 1)
    return rewritten(vfs, path, vfs.files()[path]), path, lsns


def test_dead_segments_stay_dead():
    vfs, path, lsns = torn()
    dead = {p: c for p, c in vfs.files().items() if p > path}
    assert sum(c[56] == 1 for c in dead.values()) >= 2
    found = read(vfs, segment=SMALL)
    assert values(found) == [0, 1, 2]
    assert found["highest_lsn"] >= int(max(dead)[-20:-4], 16) + SMALL
    whole = bytearray(vfs.files()[path])
    whole[lsns[3] + 5] ^= 1
    start = vfs.mutations
    found, log = reopen(vfs, **OPTIONS)
    started = vfs.mutations
    assert [p for p in dead if p in segments(vfs)] == []
    for cut in range(start, started + 1):        # dead and live segments side by side
        for seed in range(4):
            image = vfs.crash_image(cut, seed, "power")
            once = read(image, segment=SMALL)
            got = values(once)
            assert got == [0, 1, 2][:len(got)] and got and (cut < started or len(got) == 3)
            found, log2 = reopen(image, **OPTIONS)
            put(log2, 200, flush=SYNC)
            assert values(read(image, segment=SMALL)) == [*got, 200]
    put(log, 100, flush=SYNC)
    # Even should the medium bring all of them back whole.
    vfs.put_file(path, bytes(whole))
    for p, c in dead.items():
        vfs.put_file(p, c)
    assert values(read(vfs, segment=SMALL)) == [0, 1, 2, 100]
    found, log = reopen(vfs, **OPTIONS)
    put(log, 300, flush=SYNC)
    assert values(read(vfs, segment=SMALL)) == [0, 1, 2, 100, 300]


def test_a_file_cut_short_by_a_power_loss_is_a_torn_tail():
    vfs, log = new_log(**OPTIONS)
    put(log, 0, flush=SYNC)
    for i in range(1, 60):
        put(log, i, size=100, flush=OS)
    paths = segments(vfs)
    assert flagged(vfs, paths[1])
    for size in (64, 100, 700, 2000):
        short = rewritten(vfs, paths[1], vfs.files()[paths[1]][:size])
        found, log = reopen(short, **OPTIONS)
        got = values(found)
        assert got == list(range(len(got))) and got
        for i in range(60):
            put(log, 100 + i, size=100, flush=OS)
        log.flush(SYNC)
        assert values(reopen(short, **OPTIONS)[0]) == [*got, *range(100, 160)]


def test_a_spare_that_bears_the_header_of_the_same_lsn_is_wiped_durably_first():
    vfs, log = new_log(**OPTIONS)
    put(log, 0, flush=OS)
    i = 1
    while len(segments(vfs)) < 3:
        put(log, i, size=100, flush=OS)
        i += 1
    old = vfs.files()[segments(vfs)[1]]
    assert int(segments(vfs)[1][-20:-4], 16) == SMALL
    for content, synced in ((old, True), (bytes(64) + old[64:], False)):
        other, log = new_log(**OPTIONS)
        other.put_file("/log/spare-0.wal", content)
        log.close()
        image = clone(other)
        image.put_file("/log/spare-0.wal", content)
        fresh = type(other)()
        fresh.put_file("/log/spare-1.wal", bytes(SMALL))
        fresh.put_file("/log/spare-2.wal", content)
        _, log = new_log(fresh, **OPTIONS)       # takes the first spare for itself
        before = len(fresh.trace())
        for n in range(40):
            put(log, n, size=100, flush=OS)
        calls = [c[0] for c in fresh.trace()[before:]]
        assert ("sync" in calls) == synced and "sync_dir" not in calls
        assert values(read(fresh, segment=SMALL)) == list(range(40))


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_flag_in_the_header():
    vfs, log = new_log(**OPTIONS)
    for i in range(60):
        put(log, i, size=100, flush=OS)
    path = segments(vfs)[1]
    head = vfs.files()[path][:64]
    assert head[56:60] == b"\1\0\0\0" and struct.unpack("<I", head[60:])[0] == crc32c(head[:60])
    assert vfs.files()[segments(vfs)[0]][56:60] == bytes(4)
    unknown = head[:56] + b"\3\0\0\0"
    unknown += struct.pack("<I", crc32c(unknown))
    with pytest.raises(Exception, match="newer"):
        read(rewritten(vfs, path, unknown + vfs.files()[path][64:]), segment=SMALL)
