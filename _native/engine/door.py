"""The one door from Python to the core: what ``enginelib`` imports, and nothing else does."""
from .archive import CoreArchive
from .build import build_info
from .cursor import CoreCursor
from .changes import ChangeReader, oldest_running
from .handles import CoreDatabase, CoreKeyspace
from .operation import Change, Operation, puts_of
from .procedures import busy
from .lsmtree import keyspace_options
from .restore import Scan, archived_epoch, cut, image_of, scan, segments_in
from .slots import SlotRow, add_slot, drop_slot, move_slot, save_slots, slot_rows
from .txnhandle import CoreTransaction

BUSY = busy()

__all__ = ["BUSY", "CoreArchive", "CoreCursor", "CoreDatabase", "CoreKeyspace", "CoreTransaction", "Change", "ChangeReader", "Operation", "Scan", "SlotRow", "add_slot", "archived_epoch", "build_info", "cut", "drop_slot", "image_of", "keyspace_options",
           "move_slot", "oldest_running", "puts_of", "save_slots", "scan", "segments_in", "slot_rows"]
