"""Which file system a path lies on: network file systems do not keep the promises that a storage engine
builds on."""

from __future__ import annotations

import os
import re

NETWORK = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "smb3",
        "smbfs",
    }
)


def file_system(path: str, table: str = "/proc/self/mountinfo") -> str | None:
    """Returns the type of the file system that holds a path.

    Args:
        path: a path; it need not exist yet.
        table: the system's table of mounts.

    Returns:
        The type, such as ``"ext4"`` or ``"nfs4"``; None where the system has no such table.
    """
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as lines:
            rows = lines.read().splitlines()
    except OSError:
        return None
    real = os.path.realpath(path)
    best, kind = -1, None
    for row in rows:
        left, _, right = row.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            best, kind = len(point), right.split(" ", 1)[0]
    return kind


def network_file_system(path: str) -> str | None:
    """Returns the type of the network file system that a path lies on, or None when it lies on a local
    one."""
    kind = file_system(path)
    return kind if kind in NETWORK else None
