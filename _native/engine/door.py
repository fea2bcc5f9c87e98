"""The one door from Python to the core: what ``enginelib`` imports, and nothing else does."""
from .build import build_info
from .cursor import CoreCursor
from .changes import Change, ChangeReader, Operation, oldest_running
from .handles import CoreDatabase, CoreKeyspace
from .procedures import busy
from .lsmtree import keyspace_options
from .slots import SlotRow, add_slot, drop_slot, move_slot, save_slots, slot_rows
from .txnhandle import CoreTransaction

BUSY = busy()

__all__ = ["BUSY", "CoreCursor", "CoreDatabase", "CoreKeyspace", "CoreTransaction", "Change", "ChangeReader", "Operation", "SlotRow", "add_slot", "build_info", "drop_slot", "keyspace_options", "move_slot",
           "oldest_running", "save_slots", "slot_rows"]
