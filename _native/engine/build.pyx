"""How this core was built."""
import sys

from ..base.checksum import implementation
from ..index.compress import libraries

cdef extern from *:
    """
    #if defined(ENGINELIB_DEBUG)
    #define EL_BUILD "debug"
    #elif defined(CYTHON_TRACE_NOGIL) && CYTHON_TRACE_NOGIL
    #define EL_BUILD "trace"
    #elif defined(__SANITIZE_ADDRESS__)
    #define EL_BUILD "asan"
    #else
    #define EL_BUILD "release"
    #endif
    #if defined(__clang__)
    #define EL_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define EL_COMPILER "gcc " __VERSION__
    #else
    #define EL_COMPILER "unknown"
    #endif
    """
    const char* EL_BUILD
    const char* EL_COMPILER


def build_info():
    """A dict: build mode, compiler, checksum implementation in use, versions of the compression libraries (or None), Python, platform."""
    import platform
    return {
        "build": EL_BUILD.decode(),
        "compiler": EL_COMPILER.decode(),
        "checksum": implementation(),
        **libraries(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
    }
