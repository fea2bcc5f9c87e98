"""The one door from Python to the core: what ``enginelib`` imports, and nothing else does."""
from .build import build_info
from .cursor import CoreCursor
from .handles import CoreDatabase, CoreKeyspace
from .txnhandle import CoreTransaction

__all__ = ["CoreCursor", "CoreDatabase", "CoreKeyspace", "CoreTransaction", "build_info"]
