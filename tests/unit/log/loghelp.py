"""What the log's tests share: small logs on a FaultVfs, and the records that matter."""
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.log.logdoor import Log, read_log, recover
from enginelib._native.log.record import encode

SEGMENT = 8192
BUFFER = 1024
NAMES = encode("name", keyspace=1, key=b"users") + encode("name", keyspace=2, key=b"events", value=b"lsm")


def new_log(vfs=None, **options):
    vfs = vfs or FaultVfs()
    options = {"segment_size": SEGMENT, "buffer_size": BUFFER, "names": NAMES, **options}
    return vfs, Log(vfs, "/log", **options)


def read(vfs, start=0, segment=SEGMENT):
    return read_log(vfs, "/log", start_lsn=start, segment_size=segment)


def reopen(vfs, start=0, **options):
    options = {"segment_size": SEGMENT, "buffer_size": BUFFER, "names": NAMES, **options}
    return recover(vfs, "/log", start_lsn=start, **options)


def values(found):
    """What the tests put, in order; each put bears its number as transaction."""
    return [r[2] for r in found["records"] if r[1] == "put"]


def put(log, number, size=40, flush=0, **options):
    return log.append("put", txn=number, keyspace=1, key=b"key %d" % number, value=bytes([number % 251]) * size,
                      flush=flush, **options)


def segments(vfs):
    return sorted(p for p in vfs.files() if p.endswith(".wal") and "spare" not in p)
