"""What no store can pass: memory for reads, the disk for durable commits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from benches.peers.store import Pair, Store


class Dict(Store):
    """What a hash table in memory does: the ceiling of point reads, without order, transactions or files."""

    name = "dict"
    ceiling = True

    def __init__(self, path: Path, durability: str) -> None:
        self.data: dict[bytes, bytes] = {}

    def get_in_one(self, keys: Sequence[bytes]) -> None:
        get = self.data.get
        for key in keys:
            get(key)

    get_each = get_in_one

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return list(map(self.data.get, keys))

    def put_many(self, pairs: Sequence[Pair]) -> None:
        self.data.update(pairs)


class Bare(Store):
    """What the disk does: a "commit" is one ``pwrite`` and one ``fdatasync`` in a file written beforehand."""

    name = "bare"
    ceiling = True
    LENGTH = 64 << 20
    FRAME = bytes(40)  # a commit's own bytes, beside key and value

    def __init__(self, path: Path, durability: str) -> None:
        path.mkdir()
        self.fd = os.open(path / "log", os.O_RDWR | os.O_CREAT)
        self.offset = 0
        for _ in range(self.LENGTH >> 20):
            os.write(self.fd, b"\xff" * (1 << 20))
        os.fsync(self.fd)

    def close(self) -> None:
        os.close(self.fd)

    def put_each(self, pairs: Sequence[Pair]) -> None:
        fd, frame, offset = self.fd, self.FRAME, self.offset
        pwrite, fdatasync = os.pwrite, os.fdatasync
        for key, value in pairs:
            record = frame + key + value
            if offset + len(record) > self.LENGTH:
                offset = 0
            offset += pwrite(fd, record, offset)
            fdatasync(fd)
        self.offset = offset
