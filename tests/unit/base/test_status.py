"""Status codes, their detail, and the exceptions they become at the door."""

import errno
import threading

import pytest
from enginelib._native.base import status


class Made(Exception):
    def __init__(self, message, **fields):
        super().__init__(message)
        self.message = message
        self.fields = fields


NAMES = [
    "Error",
    "TransactionAborted",
    "WriteConflict",
    "SerializationFailure",
    "DeadlockDetected",
    "LockTimeout",
    "SnapshotTooOld",
    "OutcomeUnknown",
    "TransactionTooLarge",
    "UsageError",
    "TransactionClosed",
    "DatabaseClosed",
    "ThreadError",
    "ForkError",
    "ReadOnlyError",
    "NotSupported",
    "DatabaseLocked",
    "StorageError",
    "DiskFull",
    "LogWriteError",
    "CorruptionError",
]

EXPECTED = {
    17: "StorageError",
    18: "DiskFull",
    19: "LogWriteError",
    20: "CorruptionError",
    21: "DatabaseClosed",
    22: "TransactionClosed",
    23: "ThreadError",
    24: "ForkError",
    25: "ReadOnlyError",
    26: "WriteConflict",
    27: "DeadlockDetected",
    28: "LockTimeout",
    29: "SnapshotTooOld",
    30: "TransactionTooLarge",
    31: "OutcomeUnknown",
    32: "DatabaseLocked",
    33: "NotSupported",
    35: "StorageError",
    36: "NotSupported",
    38: "UsageError",
}


@pytest.fixture
def registered():
    before = status.registered_errors()
    status.register_errors({name: type(name, (Made,), {}) for name in NAMES})
    yield
    status.register_errors(before)


@pytest.fixture
def unregistered():
    before = status.registered_errors()
    status.register_errors({})
    yield
    status.register_errors(before)


@pytest.mark.parametrize("code,name", EXPECTED.items())
def test_each_code_raises_its_class_with_a_sentence(registered, code, name):
    with pytest.raises(Made) as caught:
        status.raise_with(code)
    assert type(caught.value).__name__ == name
    assert caught.value.message.endswith(".") and len(caught.value.message) > 15


def test_memory_and_arguments_raise_builtins(registered):
    with pytest.raises(MemoryError):
        status.raise_with(16)
    status.fail_n_with(34, "key is %lld bytes: expected at most %lld", 3000, 2000)
    with pytest.raises(ValueError, match=r"^key is 3000 bytes: expected at most 2000\.$"):
        status.raise_with(34)


def test_without_registration_builtins_stand_in(unregistered):
    status.fail_os_with("pread", "/x/y", errno.EIO)
    with pytest.raises(OSError) as caught:
        status.raise_with(17)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "/x/y")
    with pytest.raises(RuntimeError):
        status.raise_with(26)


@pytest.mark.parametrize(
    "number,code", [(errno.ENOSPC, 18), (errno.EDQUOT, 18), (errno.ENOMEM, 16), (errno.EIO, 17)]
)
def test_errno_decides_the_code(number, code):
    assert status.fail_os_with("pwrite", "/f", number) == code
    assert status.last_error()["errno"] == number


def test_storage_errors_carry_errno_and_filename(registered):
    code = status.fail_os_with("pwrite", "/data/0.wal", errno.ENOSPC)
    with pytest.raises(Made) as caught:
        status.raise_with(code)
    assert caught.value.fields == {"errno": errno.ENOSPC, "filename": "/data/0.wal"}
    assert "pwrite" in caught.value.message and "/data/0.wal" in caught.value.message


def test_corruption_says_file_offset_expected_and_found(registered):
    code = status.fail_corrupt_with("/d/pages.dat", 8192, "The page's checksum is wrong", 0xABCD, 0x1234)
    with pytest.raises(Made) as caught:
        status.raise_with(code)
    assert caught.value.fields == {
        "file": "/d/pages.dat",
        "offset": 8192,
        "expected": 0xABCD,
        "found": 0x1234,
    }
    assert caught.value.message == (
        "The page's checksum is wrong in /d/pages.dat at offset 8192: expected 0xabcd, found 0x1234."
    )


def test_a_text_is_used_once_and_never_for_another_code(registered):
    status.fail_with(28, "The row lock was not granted within 5 s")
    with pytest.raises(Made, match="deadlock"):
        status.raise_with(27)
    status.fail_with(28, "The row lock was not granted within 5 s")
    with pytest.raises(Made, match="within 5 s"):
        status.raise_with(28)
    with pytest.raises(Made) as caught:
        status.raise_with(28)
    assert "5 s" not in caught.value.message


def test_long_texts_are_cut_not_overrun():
    status.fail_with(38, "x" * 5000)
    assert status.last_error()["text"] == "x" * 511
    status.fail_os_with("open", "/" + "p" * 5000, errno.EIO)
    assert len(status.last_error()["file"]) == 511


def test_each_thread_has_its_own_detail():
    status.fail_with(38, "of the main thread")
    seen = []

    def other():
        seen.append(status.last_error()["text"])
        status.fail_with(38, "of the other thread")

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [""]
    assert status.last_error()["text"] == "of the main thread"


def test_an_interrupt_without_a_signal_still_raises():
    with pytest.raises(InterruptedError):
        status.raise_with(37)


def test_answers_are_not_failures():
    with pytest.raises(RuntimeError, match="status 1"):
        status.raise_with(1)
