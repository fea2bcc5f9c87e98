"""The one door from Python to the core: what ``enginelib`` imports, and nothing else does."""
from .build import build_info
from .cursor import CoreCursor
from .changes import ChangeReader, Operation, oldest_running
from .handles import CoreDatabase, CoreKeyspace
from .procedures import busy
from .slots import SlotRow, add_slot, drop_slot, move_slot, save_slots, slot_rows
from .txnhandle import CoreTransaction

BUSY = busy()

__all__ = ["BUSY", "CoreCursor", "CoreDatabase", "CoreKeyspace", "CoreTransaction", "ChangeReader", "Operation", "SlotRow", "add_slot", "build_info", "drop_slot", "move_slot",
           "oldest_running", "save_slots", "slot_rows"]
