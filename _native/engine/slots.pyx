"""Slots: named readers of the log that outlast the process, and hold it for themselves up to a bound.

A slot is (restart, confirmed): all that commits at or below `confirmed` has been acknowledged, and to read the rest no log below `restart` is needed.  They stand in
the file `slots`, written anew and renamed whole.  `Engine.slots` is what is true, `Engine.saved_slots` what the file says: the log is held from the file's
`restart`, since after a crash that is what there is.  A checkpoint that finds a slot further behind than its bound lets the log go: the slot is lost, for good.

Python only, GIL held, one at a time by that; the arrays in `Checkpoint` are the checkpoint's copy, under the latch.
"""
from libc.stdint cimport uint64_t
from ..base.checksum cimport crc32c
from ..base.latch cimport latch_enter, latch_unlock
from ..base.status cimport ABSENT, OK, fail_corrupt, raise_status
from ..base.vfs cimport VFS_READ
from .checkpoint cimport MOST_SLOTS
from .engine cimport Engine
from .files cimport replace_file
from .handles cimport CoreDatabase

cdef enum:
    MOST_BYTES = 1 << 20

HEADER = "enginelib slots 1"


cdef class SlotRow:
    """One slot. LSNs and bytes; created: seconds since 1970."""
    cdef public uint64_t restart
    cdef public uint64_t confirmed
    cdef public uint64_t max_lag
    cdef public bint trusted           # all that begins at or above `restart` is whole in the log: nothing is checked
    cdef public bint lost
    cdef public double created

    def copied(self):
        """The same again."""
        cdef SlotRow s = SlotRow()
        s.restart, s.confirmed, s.max_lag, s.trusted, s.lost, s.created = self.restart, self.confirmed, self.max_lag, self.trusted, self.lost, self.created
        return s

    def __eq__(self, other):
        cdef SlotRow o
        if not isinstance(other, SlotRow):
            return NotImplemented
        o = <SlotRow>other
        return (self.restart, self.confirmed, self.max_lag, self.trusted, self.lost) == (o.restart, o.confirmed, o.max_lag, o.trusted, o.lost)


def load_slots(Engine e):
    """Reads the file; what an unfinished writing has left goes."""
    cdef bytes path = e.directory + b"/slots"
    cdef bytes data = b""
    cdef char* buffer
    cdef SlotRow s
    cdef size_t got = 0
    cdef int handle = -1
    cdef int status = e.vfs.open(path, VFS_READ, &handle)
    e.slots, e.saved_slots = {}, {}
    if status == ABSENT:
        return
    if status == OK:
        scratch = bytearray(MOST_BYTES)
        buffer = scratch
        status = e.vfs.read(handle, buffer, MOST_BYTES, 0, &got)
        data = bytes(scratch[:got])
        e.vfs.close(handle)
    if status != OK:
        raise_status(status)
    body, _, last = data.rstrip(b"\n").rpartition(b"\n")
    body += b"\n"
    try:
        lines = body.decode("ascii").splitlines()
        if last != b"crc32c %08x" % crc32c(0, <const unsigned char*><char*>body, len(body)) or lines[0] != HEADER:
            raise ValueError
        for line in lines[1:]:
            name, restart, confirmed, max_lag, trusted, lost, created = line.split()
            s = SlotRow()
            s.restart, s.confirmed, s.max_lag = int(restart), int(confirmed), int(max_lag)
            s.trusted, s.lost, s.created = trusted == "1", lost == "1", float(created)
            e.slots[bytes.fromhex(name).decode()] = s
    except (ValueError, IndexError, OverflowError):
        raise_status(fail_corrupt(path, 0, b"the file of slots", 0, 0))
    e.saved_slots = {name: row.copied() for name, row in e.slots.items()}
    e.refresh_pin()


def save_slots(Engine e):
    """Makes the file say what is true, if it does not yet."""
    cdef bytes data
    cdef SlotRow s
    note_lost(e)
    if e.slots == e.saved_slots:
        return
    copies = {name: row.copied() for name, row in e.slots.items()}
    lines = [HEADER]
    for name, s in sorted(copies.items()):
        lines.append(f"{name.encode().hex()} {s.restart} {s.confirmed} {s.max_lag} {int(s.trusted)} {int(s.lost)} {s.created!r}")
    data = ("\n".join(lines) + "\n").encode()
    data += b"crc32c %08x\n" % crc32c(0, <const unsigned char*><char*>data, len(data))
    replace_file(e.vfs, e.directory, b"slots", b"slots.new", data)
    e.saved_slots = copies
    e.refresh_pin()


def note_lost(Engine e):
    """Learns which slots a checkpoint has let go of."""
    cdef int i
    latch_enter(&e.latch)
    lost = []
    for i in range(e.checkpoint_state.slot_count):
        if e.checkpoint_state.slots[i].lost:
            lost.append(i)
    latch_unlock(&e.latch)
    for i in lost:
        name = e.slot_names[i]
        if name in e.slots:
            e.slots[name].lost = True


def add_slot(CoreDatabase db not None, str name not None, restart, confirmed, max_lag, bint trusted, double created):
    """Makes a slot; the caller holds the log from `restart` on."""
    cdef SlotRow s = SlotRow()
    cdef Engine e = db.engine
    if len(e.slots) >= MOST_SLOTS:
        raise ValueError(f"there are {MOST_SLOTS} slots already, which is the most: drop one")
    s.restart, s.confirmed, s.max_lag, s.trusted, s.created = restart, confirmed, max_lag, trusted, created
    e.slots[name] = s
    try:
        save_slots(e)
    except BaseException:
        e.slots.pop(name, None)
        raise


def drop_slot(CoreDatabase db not None, str name not None):
    """Forgets a slot."""
    cdef Engine e = db.engine
    row = e.slots.pop(name)
    try:
        save_slots(e)
    except BaseException:
        e.slots[name] = row
        raise


def move_slot(CoreDatabase db not None, str name not None, confirmed, restart):
    """All up to `confirmed` is acknowledged; restart: None where it is not known. The file follows when log can go by it."""
    cdef Engine e = db.engine
    cdef SlotRow s = e.slots[name]
    if confirmed > s.confirmed:
        s.confirmed = confirmed
    if restart is not None and restart > s.restart:
        s.restart = restart
        s.trusted = True
    if s.restart - e.saved_slots[name].restart >= e.segment_size:
        save_slots(e)


def slot_rows(CoreDatabase db not None):
    """name -> SlotRow, a copy."""
    cdef Engine e = db.engine
    note_lost(e)
    return {name: row.copied() for name, row in e.slots.items()}
