import pytest
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.log.logdoor import Log, read_log
from enginelib._native.log.record import encode
from loghelp import NAMES, SEGMENT, new_log, put, read, reopen, segments, values


def clone(vfs):
    return vfs.crash_image(vfs.mutations, 0, "all")


def rewritten(vfs, path, content):
    copy = FaultVfs()
    for p, c in vfs.files().items():
        if p != path:
            copy.put_file(p, c)
    if content is not None:
        copy.put_file(path, content)
    return copy


def synced_log(n, **options):
    vfs, log = new_log(**options)
    lsns = [put(log, i, flush=2) for i in range(n)]
    return vfs, log, lsns


def test_names_come_first_in_every_segment_and_records_in_order():
    vfs, log, lsns = synced_log(400)
    found = read(vfs)
    assert values(found) == list(range(400))
    assert [r[0] for r in found["records"] if r[1] == "put"] == lsns
    assert len(segments(vfs)) > 4
    by_segment = {}
    for r in found["records"]:
        by_segment.setdefault(r[0] // SEGMENT, []).append(r)
    for rows in by_segment.values():
        assert [(r[3], r[6]) for r in rows[:2]] == [(1, b"users"), (2, b"events")]
    for rows in list(by_segment.values())[:-1]:
        assert rows[-1][1] == "end"
    assert found["end_lsn"] == log.state()["end"]


def test_reading_may_start_at_every_record_and_at_the_end():
    vfs, log, lsns = synced_log(300)
    for i in range(0, 300, 7):
        assert values(read(vfs, lsns[i])) == list(range(i, 300))
    assert values(read(vfs, log.state()["end"])) == []


def test_reading_from_an_unsynced_or_absent_place_is_corruption():
    vfs, log, _ = synced_log(5)
    with pytest.raises(Exception, match="log group"):
        read(vfs, log.state()["end"] + 100)
    with pytest.raises(Exception, match="log segment"):
        read(FaultVfs(), 100)


def test_torn_tail_is_dropped_but_torn_middle_is_an_error():
    vfs, log, lsns = synced_log(10)
    last = clone(vfs)
    last.corrupt(segments(vfs)[0], lsns[9] + 5, 1)
    found = read(last)
    assert values(found) == list(range(9))
    assert found["end_lsn"] == lsns[9] - 32
    middle = clone(vfs)
    middle.corrupt(segments(vfs)[0], lsns[5] + 5, 1)
    with pytest.raises(Exception, match=f"log group.*{segments(vfs)[0].rsplit('/')[-1]} at offset {lsns[5] - 32}"):
        read(middle)


def test_unsynced_groups_behind_a_torn_one_are_a_torn_tail():
    vfs, log, lsns = synced_log(3)
    lsns += [put(log, i, flush=1) for i in range(3, 8)]
    vfs.corrupt(segments(vfs)[0], lsns[4] + 5, 1)
    assert values(read(vfs)) == [0, 1, 2, 3]


def test_every_bit_flip_in_a_synced_log_is_found_or_tears_only_the_last_group():
    vfs, log = new_log(segment_size=4096, buffer_size=512, names=b"")
    lsns = [put(log, i, size=150, flush=2) for i in range(60)]
    paths = segments(vfs)
    assert len(paths) >= 3
    whole = vfs.files()
    size = len(encode("put", txn=1, keyspace=1, key=b"key 1", value=bytes(150)))
    groups = [(n - 32, n + size) for n in lsns]
    outcomes = {"found": 0, "torn": 0, "harmless": 0}
    image = clone(vfs)
    for path in paths:
        for at in range(len(whole[path])):
            lsn = int(path[-20:-4], 16) + at
            bit = 1 << (at * 5 % 8)
            image.corrupt(path, at, bit)
            try:
                got = values(read(image, segment=4096))
            except Exception as e:
                assert type(e).__name__ in ("CorruptionError", "RuntimeError"), e
                outcomes["found"] += 1
            else:
                if got == list(range(60)):
                    outcomes["harmless"] += 1         # nothing is written there
                    assert not any(a <= lsn < b for a, b in groups), (path, at)
                else:
                    assert got == list(range(59)) and lsn >= lsns[59] - 32, (path, at)
                    outcomes["torn"] += 1
            image.corrupt(path, at, bit)
    assert outcomes["found"] > 7000 and 0 < outcomes["torn"] < 300


def test_missing_segments_are_an_error():
    vfs, log, _ = synced_log(400)
    paths = segments(vfs)
    for path in paths[1:]:
        with pytest.raises(Exception, match="log segment|next segment"):
            read(rewritten(vfs, path, None))
    short = rewritten(vfs, paths[2], vfs.files()[paths[2]][:5000])
    with pytest.raises(Exception, match="size of a log segment"):
        read(short)


def test_segments_of_another_database_or_a_newer_format_are_refused():
    vfs, log, _ = synced_log(3)
    with pytest.raises(Exception, match="database id"):
        read_log(vfs, "/log", segment_size=SEGMENT, database_id=bytes(16))
    assert values(read_log(vfs, "/log", segment_size=SEGMENT, database_id=None)) == [0, 1, 2]


def test_recycled_segments_never_come_back():
    vfs, log, lsns = synced_log(300)
    for i in range(300, 900):
        if i % 100 == 0:
            log.release_below(lsns[-1])
        lsns.append(put(log, i, flush=2))
        if i % 10 == 0:
            first = next(n for n in range(i) if lsns[n] >= int(segments(vfs)[0][-20:-4], 16))
            assert values(read(vfs)) == list(range(first, i + 1))
    renames = [c for c in vfs.trace() if c[0] == "rename" and "spare" in c[1]]
    assert len(renames) > 5
    # A torn tail in a recycled file: the old groups behind it are dead.
    found = read(vfs, lsns[-1])
    vfs.corrupt(segments(vfs)[-1] if not log.state()["next"] else segments(vfs)[-2],
                lsns[-1] % SEGMENT + 3, 4)
    assert values(read(vfs, lsns[-2])) == [898]
    assert found["end_lsn"] == log.state()["end"]


def test_a_dead_group_behind_the_end_stays_dead_after_recovery():
    """The group after a torn one is whole on disk; once recovery has ended the log before it, it must never follow again."""
    vfs, log, lsns = synced_log(3)
    lsns += [put(log, i, flush=1) for i in range(3, 6)]
    path = segments(vfs)[0]
    vfs.corrupt(path, lsns[3] + 5, 1)
    before = vfs.files()[path]
    found, log2 = reopen(vfs)
    assert values(found) == [0, 1, 2]
    put(log2, 100, flush=2)
    # Even should the medium bring the old bytes back whole.
    vfs.put_file(path, before)
    vfs.corrupt(path, lsns[3] + 5, 1)
    assert values(read(vfs)) == [0, 1, 2, 100]


def test_limit_stops_before_what_is_not_synced():
    vfs, log, lsns = synced_log(5)
    synced = log.state()["synced"]
    put(log, 5, flush=1)
    assert values(read_log(vfs, "/log", segment_size=SEGMENT, limit_lsn=synced)) == [0, 1, 2, 3, 4]
    assert values(read(vfs)) == [0, 1, 2, 3, 4, 5]


def test_a_damaged_header_of_the_last_segment_is_an_error():
    vfs, log = new_log()
    i = 0
    while not log.state()["segment"]:
        put(log, i, flush=2)
        i += 1
    log.flush(2)
    vfs.corrupt(segments(vfs)[1], 20, 1)
    with pytest.raises(Exception, match="header"):
        read(vfs)


def test_large_records_grow_the_buffer():
    vfs = FaultVfs()
    log = Log(vfs, "/log", segment_size=16 << 20, buffer_size=4096, names=NAMES)
    for i, size in enumerate((10, 5000, 100_000, 3_000_000, 4_000_000, 4_100_000, 4_100_000, 20)):
        put(log, i, size=size)
    log.flush(2)
    assert values(read_log(vfs, "/log", segment_size=16 << 20)) == list(range(8))
    with pytest.raises(ValueError):
        put(log, 9, size=5_000_000)


def graft(of, into, start, stop):
    """The log `into` with bytes [start, stop) of the log `of` in their place."""
    path = segments(into)[0]
    content = into.files()[path]
    return rewritten(into, path, content[:start] + of.files()[segments(of)[0]][start:stop] + content[stop:])


def test_a_whole_group_that_follows_another_one_is_refused():
    logs = []
    for size in (b"a", b"b"):
        vfs, log = new_log(names=b"")
        lsns = [log.append("put", txn=i, key=size * 20, flush=2) for i in range(2)]
        logs.append(vfs)
    mixed = graft(logs[1], logs[0], lsns[1] - 32, lsns[1] + 100)
    assert len(read(logs[1])["records"]) == 2
    assert [r[6] for r in read(mixed)["records"]] == [b"a" * 20]


def test_a_whole_group_of_another_incarnation_is_refused():
    vfs, log = new_log(names=b"")
    other, log2 = new_log(names=b"", incarnation=2)
    for one in (log, log2):
        one.append("put", txn=1, key=b"k", flush=2)
    assert len(read(other)["records"]) == 1
    assert read(graft(other, vfs, 64, 200))["records"] == []


def test_a_whole_group_of_another_place_is_refused():
    vfs, log = new_log(names=b"")
    other, log2 = new_log(names=b"", first_lsn=SEGMENT)
    for one in (log, log2):
        one.append("put", txn=1, key=b"k", flush=2)
    assert len(read(other)["records"]) == 1
    assert read(graft(other, vfs, 64, 200))["records"] == []


def test_a_missing_segment_before_an_empty_one_is_an_error():
    vfs, log, _ = synced_log(3)
    _, log = reopen(vfs, names=b"")
    put(log, 3, flush=2)
    _, log = reopen(vfs, names=b"")
    assert len(segments(vfs)) == 3
    assert values(read(vfs)) == [0, 1, 2, 3]
    with pytest.raises(Exception, match="log segment"):
        read(rewritten(vfs, segments(vfs)[1], None))
