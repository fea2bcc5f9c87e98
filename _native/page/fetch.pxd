"""Many pages brought in together: in the order of the file, neighbours with one call, by as many threads as there are processors to spare.

For recovery, which has the pool to itself and knows from the log which pages it will want.  A fetch is made by one thread, the pool's only user meanwhile;
helpers read, check and unpack into its frames without any latch but their own, and touch nothing else.  What a fetch does to the pool happens in
`fetch_want` and `fetch_finish`, so it is the same with and without helpers.

Use: fetch_open; then for each batch want ..., start, finish, release; fetch_stop, a last release, fetch_close.  One batch is made at a time, several may be under way.  A page that is
needed before its batch is finished, or before that was started even, is no mistake: `Pool.load` finishes all there are.
"""
from libc.stdint cimport uint64_t
from .pool cimport Fetch, Pool

# GIL held or not, latch not. `helpers`: most threads to start; they start when there is enough to do. E_NOMEM.
cdef int fetch_open(Pool pool, int helpers) noexcept nogil
# latch held or not. From now on nothing is read: what has not been by then is as if never wanted. So who fails does not wait for a medium that does.
cdef void fetch_stop(Pool pool) noexcept nogil
# latch not held. Ends the helpers; every fetch has been released.
cdef void fetch_close(Pool pool) noexcept nogil
# latch (released to bring in a map page). Adds a page unless it is here, on its way, or not to be had. False: the batch takes no more.
cdef bint fetch_want(Pool pool, Fetch* fetch, uint64_t pid, uint64_t most) noexcept nogil
# latch. The batch is complete: reading may begin. Nothing happens if it is empty, or has begun already.
cdef void fetch_start(Pool pool, Fetch* fetch) noexcept nogil
# latch (released). Reads what is left to read. Pages that could not be had are as if never wanted: who needs one will load it and learn why.
# The others are pinned until the release.
cdef void fetch_finish(Pool pool, Fetch* fetch) noexcept nogil
# latch. The fetch may be used again.
cdef void fetch_release(Pool pool, Fetch* fetch) noexcept nogil
# latch (released). Finishes all that are under way; False: there are none.
cdef bint fetch_finish_all(Pool pool) noexcept nogil
# The memory of a released fetch.
cdef void fetch_free(Fetch* fetch) noexcept nogil
