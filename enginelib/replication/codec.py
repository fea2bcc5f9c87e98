"""Encodings of changes: a compact binary one for machines, and JSON in the shape of Debezium's change events.

Binary: a change is a MessagePack map whose keys are small integers, the tags below; so is an operation. A reader passes
over tags that it does not know, and a missing tag means None (or no calls): either side may be the older one. Numbers
are never used again. A file of changes is the line `MAGIC`, then for each change its length and CRC-32, four bytes each
in big-endian order, and the change.

JSON: one event per operation, with ``before`` and ``after``, ``source``, ``op``, ``ts_ms`` and ``transaction``, between
a ``BEGIN`` and an ``END`` event that counts them (Debezium's documentation, "Change event values" and "Transaction
metadata"). Without before-images a put cannot be told to be an insertion (``"c"``) or an update: it is ``"u"``.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import msgspec

from enginelib._native.engine.door import Change, Operation
from enginelib.commands import Call
from enginelib.errors import CorruptionError

MAGIC = b"enginelib changes 1\n"
LARGEST = 1 << 31

# Tags of a change.
DATABASE_ID, EPOCH, SEQUENCE, LSN, COMMIT_TS, TIME, ORIGIN, OPERATIONS, CALLS, XID, EVENT = range(1, 12)
# Of an operation.
OP, KEYSPACE, KEY, VALUE, BEFORE, EXISTED = range(1, 7)
# Of a call.
NAME, ARGS, NOW, SEED = range(1, 5)

CODES = {
    "put": 1,
    "delete": 2,
    "delete_range": 3,
    "create_keyspace": 4,
    "drop_keyspace": 5,
    "rename_keyspace": 6,
}
OPS = {code: op for op, code in CODES.items()}

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[int, Any]).decode


def encode(change: Change) -> bytes:
    """Returns a change as bytes."""
    fields: dict[int, Any] = {
        DATABASE_ID: change.database_id,
        EPOCH: change.epoch,
        SEQUENCE: change.sequence,
        LSN: change.lsn,
        COMMIT_TS: change.commit_ts,
        TIME: change.time,
        OPERATIONS: [_fields(o) for o in change.operations],
    }
    if change.origin is not None:
        fields[ORIGIN] = change.origin
    if change.xid is not None:
        fields[XID] = change.xid
    if change.event != "commit":
        fields[EVENT] = change.event
    if change.calls:
        fields[CALLS] = [{NAME: c.name, ARGS: c.args, NOW: c.now, SEED: c.seed} for c in change.calls]
    return _encode(fields)


def _fields(o: Operation) -> dict[int, Any]:
    fields: dict[int, Any] = {OP: CODES[o.op], KEYSPACE: o.keyspace}
    if o.key is not None:
        fields[KEY] = o.key
    if o.value is not None:
        fields[VALUE] = o.value
    if o.before is not None:
        fields[BEFORE] = o.before
    if o.existed is not None:
        fields[EXISTED] = o.existed
    return fields


def decode(data: bytes | bytearray | memoryview) -> Change:
    """Returns the change that `encode` made bytes of, by this version or another.

    Raises:
        ValueError: they are no change.
    """
    try:
        fields = _decode(data)
        return Change(
            fields[DATABASE_ID],
            fields[EPOCH],
            fields[SEQUENCE],
            fields[LSN],
            fields[COMMIT_TS],
            fields[TIME],
            fields.get(ORIGIN),
            [
                Operation(o[KEYSPACE], OPS[o[OP]], o.get(KEY), o.get(VALUE), o.get(BEFORE), o.get(EXISTED))
                for o in fields[OPERATIONS]
            ],
            tuple(Call(c[NAME], c[ARGS], c[NOW], c[SEED]) for c in fields.get(CALLS, ())),
            fields.get(XID),
            fields.get(EVENT, "commit"),
        )
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"These {len(data)} bytes are no encoded change: {error!r}.") from None


def save(changes: Iterable[Change], file: IO[bytes]) -> int:
    """Writes changes to a file; returns how many."""
    file.write(MAGIC)
    count = 0
    for change in changes:
        data = encode(change)
        if len(data) >= LARGEST:
            raise ValueError(f"Change {change.sequence} takes {len(data)} bytes, more than the {LARGEST} of a frame.")
        file.write(len(data).to_bytes(4, "big") + zlib.crc32(data).to_bytes(4, "big"))
        file.write(data)
        count += 1
    return count


def load(file: IO[bytes]) -> Iterator[Change]:
    """Yields the changes of a file that `save` wrote.

    Raises:
        CorruptionError: it is no such file, was cut short, or damaged.
    """
    if file.read(len(MAGIC)) != MAGIC:
        raise CorruptionError("The file does not begin as a file of changes.")
    at = len(MAGIC)
    while head := file.read(8):
        size = int.from_bytes(head[:4], "big")
        data = file.read(size) if len(head) == 8 and size < LARGEST else b""
        if len(data) != size or zlib.crc32(data) != int.from_bytes(head[4:], "big"):
            raise CorruptionError(f"The change at byte {at} of the file is cut short or damaged.")
        try:
            yield decode(data)
        except ValueError as error:
            raise CorruptionError(f"The change at byte {at} of the file: {error}") from None
        at += 8 + size


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _row(key: Any, value: bytes | None, text: Callable[[bytes], Any]) -> dict[str, Any]:
    return {"key": key} if value is None else {"key": key, "value": text(value)}


def to_events(change: Change, text: Callable[[bytes], Any] = _base64) -> Iterator[dict[str, Any]]:
    """Yields a change as events in the shape of Debezium's, ready for JSON.

    Args:
        change: the change.
        text: makes something JSON can hold of a key or value; base64 unless given.
    """
    if change.event != "commit":
        return  # there is no such event
    number = f"{change.database_id.hex()}:{change.sequence}"
    source = {
        "connector": "enginelib",
        "name": change.database_id.hex(),
        "ts_ms": int(change.time * 1000),
        "epoch": change.epoch,
        "sequence": change.sequence,
        "lsn": change.lsn,
        "origin": None if change.origin is None else change.origin.hex(),
    }
    yield {"status": "BEGIN", "id": number, "ts_ms": source["ts_ms"], "event_count": None}
    counts: dict[str, int] = {}
    total = 0
    for total, o in enumerate(change.operations, 1):
        counts[o.keyspace] = counts.get(o.keyspace, 0) + 1
        key = None if o.key is None else text(o.key)
        event: dict[str, Any] = {"before": None, "after": None, "source": {**source, "keyspace": o.keyspace}}
        if o.op == "put":
            assert o.value is not None
            event |= {"op": "c" if o.existed is False else "u", "after": {"key": key, "value": text(o.value)}}
            if o.existed:
                event["before"] = _row(key, o.before, text)
        elif o.op == "delete":
            event |= {"op": "d", "before": None if o.existed is False else _row(key, o.before, text)}
        elif o.op == "delete_range":
            event |= {"op": "t", "range": {"start": key, "stop": None if o.value is None else text(o.value)}}
        else:
            event |= {"op": "m", "message": {"kind": o.op, "value": None if o.value is None else text(o.value)}}
        event["ts_ms"] = source["ts_ms"]
        event["transaction"] = {"id": number, "total_order": total, "data_collection_order": counts[o.keyspace]}
        yield event
    yield {
        "status": "END",
        "id": number,
        "ts_ms": source["ts_ms"],
        "event_count": total,
        "data_collections": [{"data_collection": name, "event_count": n} for name, n in counts.items()],
    }
