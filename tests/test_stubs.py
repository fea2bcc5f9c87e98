"""The stubs of compiled modules say what is there: names, arguments, defaults."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = r"""
.*\.__pyx_capi__
.*\.__test__
.*\.__reduce_cython__
.*\.__setstate_cython__
enginelib\._native\.engine\.door\.Buffer
"""


def test_stubs_agree_with_the_modules(tmp_path):
    (tmp_path / "enginelib").mkdir()
    (tmp_path / "enginelib" / "__init__.pyi").touch()
    (tmp_path / "enginelib" / "_native").symlink_to(ROOT / "_native")
    stubs = sorted(ROOT.glob("_native/**/*.pyi"))
    assert len(stubs) >= 2
    modules = [".".join(("enginelib", *path.relative_to(ROOT).with_suffix("").parts)) for path in stubs]
    (tmp_path / "allowed").write_text(ALLOWED)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nmypy_path = {tmp_path}\ncache_dir = {tmp_path / 'cache'}\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "--concise", "--ignore-disjoint-bases", "--ignore-unused-allowlist",
         "--allowlist", tmp_path / "allowed", "--mypy-config-file", tmp_path / "mypy.ini", *modules],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
