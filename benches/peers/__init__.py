"""One adapter per store, and the order in which they take turns."""

from __future__ import annotations

from benches.peers.berkeleydb import Berkeleydb
from benches.peers.ceilings import Bare, Dict
from benches.peers.lmdb import Lmdb0, Lmdb1
from benches.peers.lsm import Plyvel, Rocksdict
from benches.peers.ours import Enginelib
from benches.peers.sqlite import Apsw, Sqlite3
from benches.peers.store import CACHE, Operation, Pair, Store

__all__ = ["CACHE", "PEERS", "STORES", "Enginelib", "Operation", "Pair", "Store"]

STORES: tuple[type[Store], ...] = (
    Enginelib,
    Lmdb0,
    Lmdb1,
    Plyvel,
    Rocksdict,
    Sqlite3,
    Apsw,
    Berkeleydb,
    Dict,
    Bare,
)
PEERS = tuple(store.name for store in STORES if store is not Enginelib and not store.ceiling)
