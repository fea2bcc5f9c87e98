"""Threads with results, and waiting for what only figures show."""

import threading
import time


class Worker:
    """A function in a thread; `result` waits for it, and raises what it raised."""

    def __init__(self, function, *args):
        self.value = self.error = None
        self.began = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(function, *args), daemon=True)
        self.thread.start()
        assert self.began.wait(10)

    def _run(self, function, *args):
        self.began.set()
        try:
            self.value = function(*args)
        except BaseException as error:
            self.error = error

    @property
    def running(self):
        return self.thread.is_alive()

    def settled(self, seconds=10):
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the thread still waits"
        return self

    def result(self, seconds=10):
        self.settled(seconds)
        if self.error is not None:
            raise self.error
        return self.value


def until(condition, seconds=10.0):
    """Waits until a condition holds; fails after a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.0005)


def blocked(txn):
    """Waits until another thread is inside an operation of the transaction, that is: waits for a row lock in it."""
    from enginelib import ThreadError

    def inside():
        try:
            txn.save()
        except ThreadError:
            return True
        return False

    until(inside)
