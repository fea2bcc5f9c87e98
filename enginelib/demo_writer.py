"""The process that ``enginelib demo`` kills: loads the data and acknowledges each committed batch by a line
on standard output.

Run as ``python -m enginelib.demo_writer PATH THREADS SIZE``.
"""

from __future__ import annotations

import os
import sys

from enginelib.database import open as open_database
from enginelib.demo import batches, load


def main(path: str, threads: int, size: int) -> None:
    """Makes the database and loads everything into it.

    Args:
        path: the database.
        threads: how many threads write.
        size: how many characters one batch holds.
    """
    work = batches(size)
    with open_database(path) as db:
        os.write(1, b"begin\n")
        load(db, work, threads, acknowledge)


def acknowledge(number: int) -> None:
    """Reports a committed batch; a line this short is written whole or not at all."""
    os.write(1, b"%d\n" % number)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
