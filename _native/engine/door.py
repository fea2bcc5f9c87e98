"""The one door from Python to the core: what ``enginelib`` imports, and nothing else does."""
from .build import build_info
from .cursor import CoreCursor
from .handles import CoreDatabase, CoreKeyspace
from .procedures import busy
from .txnhandle import CoreTransaction

BUSY = busy()

__all__ = ["BUSY", "CoreCursor", "CoreDatabase", "CoreKeyspace", "CoreTransaction", "build_info"]
