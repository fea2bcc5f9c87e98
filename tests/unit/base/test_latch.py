"""The latch excludes, never deadlocks with the GIL, and its condition keeps monotonic time."""

import threading
import time

from enginelib._native.base.latch import LatchDoor, clocks


def run_all(*targets):
    threads = [threading.Thread(target=t, daemon=True) for t in targets]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive(), "deadlock"


def test_threads_with_and_without_the_gil_exclude_each_other():
    door = LatchDoor()
    run_all(*[lambda: door.add_under_latch(20_000)] * 3, *[lambda: door.add_without_gil(200_000)] * 2)
    assert door.counter == 3 * 20_000 + 2 * 200_000


def test_waiting_for_the_latch_lets_other_python_threads_run():
    door = LatchDoor()
    holder = threading.Thread(target=door.hold_without_gil, args=(300_000,))
    holder.start()
    while door.try_latch():
        time.sleep(0.001)
    waiter = threading.Thread(target=door.enter_and_leave)
    waiter.start()
    steps = 0
    while waiter.is_alive() and holder.is_alive():
        time.sleep(0.005)
        steps += 1
    holder.join()
    waiter.join(10)
    assert not waiter.is_alive()
    assert steps > 10


def test_a_timed_wait_ends_on_time():
    door = LatchDoor()
    begin = time.monotonic()
    while door.wait(50_000) and time.monotonic() - begin < 0.05:
        pass  # woken spuriously
    assert 0.045 < time.monotonic() - begin < 5


def test_a_zero_wait_returns_at_once():
    assert LatchDoor().wait(0) is False


def test_a_very_long_wait_does_not_overflow():
    door = LatchDoor()
    woken = []
    waiter = threading.Thread(target=lambda: woken.append(door.wait(2**63 - 1)), daemon=True)
    waiter.start()
    while waiter.is_alive():
        door.wake()
        waiter.join(0.01)
    assert woken == [True]


def test_a_wait_without_bound_ends_when_woken():
    door = LatchDoor()
    woken = []
    waiter = threading.Thread(target=lambda: woken.append(door.wait(-1)), daemon=True)
    waiter.start()
    while waiter.is_alive():
        door.wake()
        waiter.join(0.01)
    assert woken == [True]


def test_clocks_agree_with_python():
    monotonic, wall = clocks()
    assert abs(monotonic / 1e6 - time.monotonic()) < 1
    assert abs(wall / 1e6 - time.time()) < 1
