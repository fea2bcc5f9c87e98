"""The log on the operating system's files."""
import threading

import pytest
from enginelib._native.base.realvfs import RealVfs
from enginelib._native.log.logdoor import Log, read_log, recover, time_bare


def test_a_log_is_written_read_and_taken_up_again(tmp_path):
    vfs = RealVfs()
    log = Log(vfs, tmp_path / "log", segment_size=65536, buffer_size=4096)
    for i in range(2000):
        log.put(i, 1, b"key %d" % i, b"v" * 100)
        if i % 100 == 0:
            log.flush(2)
    log.flush(1)
    log.close()
    found, log = recover(vfs, tmp_path / "log", segment_size=65536, buffer_size=4096)
    assert [r[2] for r in found["records"] if r[1] == "put"] == list(range(2000))
    log.put(2000, 1, b"", b"")
    log.flush(2)
    log.release_below(log.state()["end"])
    log.close()
    found = read_log(vfs, tmp_path / "log", segment_size=65536, start_lsn=found["highest_lsn"])
    assert [r[2] for r in found["records"] if r[1] == "put"] == [2000]
    assert 2 <= len(list((tmp_path / "log").glob("spare-*.wal"))) <= 16


def test_committers_share_syncs_of_a_real_disk(tmp_path):
    vfs = RealVfs()
    bare = tmp_path / "bare"
    bare.write_bytes(bytes(1 << 16))
    if time_bare(vfs, bare, 100, 1 << 16, 20, "sync") < 50_000:
        pytest.skip("syncs here are too fast to be shared")
    log = Log(vfs, tmp_path / "log")
    pool = [threading.Thread(target=log.time_commit, args=(50, 2)) for _ in range(16)]
    [t.start() for t in pool]
    [t.join(60) for t in pool]
    assert not any(t.is_alive() for t in pool)
    assert log.state()["syncs"] < 16 * 50 / 2
    log.close()
