"""Processes and threads for the tests of limits."""

import subprocess
import sys
import textwrap
import threading
import time


def python(text, *args, check=True):
    """Runs a program text in a process of its own; returns its standard output."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", textwrap.dedent(text), *map(str, args)],
        capture_output=True, text=True, timeout=30, check=False,
    )
    if check:
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Thread(threading.Thread):
    """A function in a thread that remembers what it raised."""

    def __init__(self, function, *args):
        super().__init__(daemon=True)
        self.function, self.args = function, args
        self.error = self.value = None
        self.start()

    def run(self):
        try:
            self.value = self.function(*self.args)
        except BaseException as error:
            self.error = error

    def settled(self, seconds=10):
        self.join(seconds)
        assert not self.is_alive(), "the thread still waits"
        return self


def until(condition, seconds=10.0):
    """Waits until a condition holds; fails after a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.0005)


def blocked(txn):
    """Waits until another thread is inside an operation of the transaction."""
    import enginelib

    def inside():
        try:
            txn.save()
        except enginelib.ThreadError:
            return True
        return False

    until(inside)
