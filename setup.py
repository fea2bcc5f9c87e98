"""Build of the compiled core.

The Cython sources live in ``_native/`` and are installed as the package ``enginelib._native``.  For ``cimport`` to
resolve relative to that name, a staged folder ``build/pxd/enginelib/`` holds an empty ``__init__.pxd`` and a link
``_native`` to the sources.

Environment:
    ENGINELIB_BUILD   release (default) | debug (assertions, structure checks, bounds checks) | trace (line coverage)
                      | asan (AddressSanitizer and UndefinedBehaviorSanitizer)
                      | tsan (ThreadSanitizer; run with libtsan preloaded)
                      | fuzz (asan, and the coverage that guides libFuzzer; CC=clang; tools/fuzz.py --guided makes it)
    ENGINELIB_PLAIN   1: without the compression libraries, even if they are there
    ENGINELIB_ONLY    comma-separated module prefixes below ``_native`` to rebuild, for work on one layer
"""
from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
NATIVE = ROOT / "_native"
MODE = os.environ.get("ENGINELIB_BUILD", "release")
if MODE not in ("release", "debug", "trace", "asan", "tsan", "fuzz"):
    sys.exit(f"ENGINELIB_BUILD={MODE!r}: expected release, debug, trace, asan, tsan or fuzz")

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": MODE == "debug",
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": MODE == "debug",
    "embedsignature": True,
    "binding": True,
    "linetrace": MODE == "trace",
}
COMPILE = {
    "release": ["-O3", "-DNDEBUG", "-fno-semantic-interposition"],
    "debug": ["-O1", "-g", "-UNDEBUG", "-DENGINELIB_DEBUG=1"],
    "trace": ["-O0", "-g", "-DCYTHON_TRACE_NOGIL=1"],
    "asan": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"],
    "tsan": ["-O1", "-g", "-fsanitize=thread", "-fno-omit-frame-pointer"],
    "fuzz": ["-O1", "-g", "-fsanitize=address,undefined,fuzzer-no-link", "-fno-sanitize-recover=undefined",
             "-fno-omit-frame-pointer"],
}[MODE]
LINK = {
    "asan": ["-fsanitize=address,undefined"],
    "tsan": ["-fsanitize=thread"],
    "fuzz": ["-fsanitize=address,undefined,fuzzer-no-link", "-shared-libasan"],
}.get(MODE, [])
GENERATED = f"build/cython-{MODE}" if MODE in ("debug", "trace") else "build/cython"     # their directives make other C


def stage() -> Path:
    """Makes the folder from which ``cimport enginelib._native...`` resolves; returns it."""
    package = ROOT / "build" / "pxd" / "enginelib"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.pxd").touch()
    link = package / "_native"
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(NATIVE, package))
    return package.parent


def libraries() -> tuple[list[str], list[tuple[str, str]]]:
    """The compression libraries that a program can be built with here, and the macros that say so."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    found, macros = [], []
    if os.environ.get("ENGINELIB_PLAIN") == "1":
        return found, macros
    probes = [("lz4", "lz4.h", "LZ4_versionNumber()"), ("zstd", "zstd.h", "(int)ZSTD_versionNumber()")]
    for name, header, call in probes:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.c"
            source.write_text(f"#include <{header}>\nint main(void) {{ return {call} == 0; }}\n")
            command = [*shlex.split(compiler), str(source), f"-l{name}", "-o", str(source.with_suffix(""))]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                found.append(name)
                macros.append((f"ENGINELIB_{name.upper()}", "1"))
    return found, macros


def modules() -> list[Extension]:
    linked, macros = libraries()
    only = [p for p in os.environ.get("ENGINELIB_ONLY", "").split(",") if p]
    found = []
    for source in sorted(NATIVE.rglob("*.pyx")):
        name = ".".join(source.relative_to(NATIVE).with_suffix("").parts)
        if only and not any(name.startswith(p) for p in only):
            continue
        compresses = name == "index.compress"
        found.append(
            Extension(
                f"enginelib._native.{name}",
                [str(source.relative_to(ROOT))],
                include_dirs=[str(NATIVE.relative_to(ROOT))],
                libraries=linked if compresses else [],
                define_macros=macros if compresses else [],
                extra_compile_args=["-std=gnu11", "-Wno-unused-function", "-pthread", *COMPILE],
                extra_link_args=["-pthread", *LINK],
            )
        )
    return found


staged = stage()
layers = sorted(p.name for p in NATIVE.iterdir() if (p / "__init__.py").exists())
setup(
    packages=[
        *("enginelib" + "".join(f".{part}" for part in p.parent.relative_to(ROOT / "enginelib").parts)
          for p in sorted((ROOT / "enginelib").rglob("__init__.py"))),
        "enginelib._native",
        *(f"enginelib._native.{layer}" for layer in layers),
    ],
    package_dir={"enginelib": "enginelib", "enginelib._native": "_native"},
    package_data={"enginelib": ["py.typed"], "enginelib._native": ["*.pyi", "*/*.pyi", "*/*.pxd", "README.md"]},
    ext_modules=cythonize(
        modules(),
        include_path=[str(staged)],
        compiler_directives=DIRECTIVES,
        build_dir=GENERATED,
        nthreads=os.cpu_count() or 1,
        quiet=True,
    ),
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
