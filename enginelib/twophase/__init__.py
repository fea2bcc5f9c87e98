"""Two-phase commit with others: adapters for coordinators that exist, and a small coordinator.

`Participant` has the interface of PEP 249 for distributed transactions. `enginelib.twophase.zope` joins databases to
the transactions of zope's package ``transaction``. A `Coordinator` commits over several `Branch`es, databases and
PostgreSQL servers, and keeps its decisions in a database. What the promise itself is: `Transaction.prepare`.
"""

from enginelib.twophase.branches import Branch, DatabaseBranch, PostgresBranch
from enginelib.twophase.coordinator import Coordinator, Resolution
from enginelib.twophase.participant import Participant
from enginelib.twophase.xid import Xid

__all__ = ["Branch", "Coordinator", "DatabaseBranch", "Participant", "PostgresBranch", "Resolution", "Xid"]
