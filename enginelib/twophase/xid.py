"""Names of distributed transactions, as PEP 249 and XA have them, and as one string.

The string is ``formatid_base64(gtrid)_base64(bqual)``, as psycopg and PostgreSQL's JDBC driver write it, so that the
branches of one transaction are known by related names everywhere.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from typing import Any, NamedTuple

LONGEST_PART = 64  # bytes, of either qualifier: XA's limit
GREATEST_FORMAT = 0x7FFFFFFF
ENCODED = re.compile(r"(0|[1-9][0-9]{0,9})_([A-Za-z0-9+/]*={0,2})_([A-Za-z0-9+/]*={0,2})")


class Xid(NamedTuple):
    """What a branch of a distributed transaction is known by.

    Attributes:
        format_id: 0 to 2**31 - 1; None for a transaction that was prepared under a name that is no encoded xid.
        gtrid: of the whole transaction, the same in each of its branches; the name itself where there is no
            format_id.
        bqual: of the branch; None where there is no format_id.
    """

    format_id: int | None
    gtrid: str
    bqual: str | None

    def __str__(self) -> str:
        """The name that `Transaction.prepare` takes."""
        if self.format_id is None:
            return self.gtrid
        return f"{self.format_id}_{_encoded(self.gtrid)}_{_encoded(self.bqual or '')}"

    @classmethod
    def of(cls, format_id: int, gtrid: str, bqual: str) -> Xid:
        """Checks the parts and returns their xid.

        Args:
            format_id: 0 to 2**31 - 1.
            gtrid: 1 to 64 bytes in UTF-8.
            bqual: 0 to 64 bytes in UTF-8.

        Raises:
            TypeError, ValueError: a part is of another type, or out of bounds.
        """
        if not isinstance(format_id, int) or isinstance(format_id, bool):
            raise TypeError(f"A format_id must be int, not {type(format_id).__name__}.")
        if not 0 <= format_id <= GREATEST_FORMAT:
            raise ValueError(f"A format_id lies between 0 and {GREATEST_FORMAT}; this is {format_id}.")
        for name, part, least in (("gtrid", gtrid, 1), ("bqual", bqual, 0)):
            if not isinstance(part, str):
                raise TypeError(f"A {name} must be str, not {type(part).__name__}.")
            if not least <= len(part.encode()) <= LONGEST_PART:
                raise ValueError(f"A {name} takes {least} to {LONGEST_PART} bytes in UTF-8; {part[:40]!r} does not.")
        return cls(format_id, gtrid, bqual)

    @classmethod
    def parse(cls, name: str) -> Xid:
        """The xid whose string this is; for any other name one without format_id, as PEP 249's drivers do."""
        found = ENCODED.fullmatch(name)
        if found is not None:
            try:
                made = cls.of(int(found[1]), b64decode(found[2]).decode(), b64decode(found[3]).decode())
            except ValueError:  # bad base64 or UTF-8, or a part out of bounds
                made = None
            if made is not None and str(made) == name:
                return made
        return cls(None, name, None)

    @classmethod
    def among(cls, xid: Any) -> Xid:
        """Takes an Xid, a sequence of its three parts, or the string."""
        if isinstance(xid, str):
            return cls.parse(xid)
        format_id, gtrid, bqual = xid
        if format_id is None:
            return cls(None, gtrid, None)
        return cls.of(format_id, gtrid, bqual)


def _encoded(part: str) -> str:
    return b64encode(part.encode()).decode()
