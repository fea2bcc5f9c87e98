"""Waiting for a row lock, and finding cycles of waits.

A transaction waits for at most one other, so the waits-for graph is a function and a cycle is found by following it once, when a wait begins
(Bernstein, Hadzilacos, Goodman: Concurrency Control and Recovery in Database Systems, 1987, section 3.2).  The victim is the one that has changed least.
"""
from libc.stdint cimport int64_t
from ..base.latch cimport Latch
from .versions cimport Txn

cdef enum:
    WAIT_SLICE = 50000          # microseconds after which a waiter lets Python look for signals

# latch (released while waiting, taken again). OK: `owner` has ended or may have: try again; E_DEADLOCK, E_TIMEOUT; E_INTERRUPT: a slice has
# passed; `t.doomed` as set by someone else.
cdef int wait_for(Latch* latch, Txn* t, Txn* owner) noexcept nogil
# latch. Lets all who wait for t try again.
cdef void wake_waiters(Txn* t) noexcept nogil
# latch. Ends the wait of t, if it waits, with the status.
cdef void doom(Txn* t, int status) noexcept nogil
# Whether the waits of one lead to the other (or are the other).
cdef bint leads_to(Txn* from_, Txn* t) noexcept nogil
# The status that a doomed transaction dies of, with its text.
cdef int doomed_status(const Txn* t) noexcept nogil
