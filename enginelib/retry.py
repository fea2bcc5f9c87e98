"""Running a transaction again when another has got in its way.

Only errors whose ``retryable`` is true are retried: `OutcomeUnknown` never is. Between attempts a thread
waits for a random time below a bound that doubles (full jitter), so that those who met once do not meet
again.
"""

from __future__ import annotations

import inspect
import logging
import time
import warnings
from collections.abc import Callable
from functools import partial, wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from enginelib.errors import Error
from enginelib.transaction import Transaction

if TYPE_CHECKING:
    from enginelib.database import Database

logger = logging.getLogger("enginelib")

P = ParamSpec("P")
R = TypeVar("R")

RETRIES = 10
FIRST_WAIT = 0.001
LONGEST_WAIT = 0.25
DEFERRED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def run(
    target: Database | Transaction,
    function: Callable[..., R],
    *args: Any,
    retries: int = RETRIES,
    **begin: Any,
) -> R:
    """Calls ``function(txn, *args)`` in a transaction that commits at its end, and again when a retry can
    succeed.

    Args:
        target: a database, of which a new transaction is begun for each attempt; or a transaction, which is
            joined: then nothing is committed or retried here.
        function: what to do; it may be called more than once, so it should have no other lasting effect.
        args: passed on after the transaction.
        retries: how often to try again after the first attempt.
        begin: arguments of `Database.transaction`.

    Returns:
        What the function returned in the attempt that committed.

    Raises:
        TypeError: the function is a generator or coroutine function; it would run after the transaction's
            end.
        Error: the last attempt's error, with a note of how many there were; or at once, one that a retry
            cannot cure.
    """
    refuse_deferred(function)
    if isinstance(target, Transaction):
        return function(target, *args)

    def once() -> R:
        with target.transaction(**begin) as txn:
            return function(txn, *args)

    return persist(once, retries)


def persist(once: Callable[[], R], retries: int = RETRIES) -> R:
    """Calls a function without arguments, and again with back-off while a retry can help; see `Database.run`."""
    attempt = 1
    while True:
        try:
            return once()
        except Error as error:
            if not worth_retrying(error, attempt, retries):
                raise
        time.sleep(backoff(attempt))
        attempt += 1


@overload
def transactional(
    function: Callable[Concatenate[Transaction, P], R],
) -> Callable[Concatenate[Database | Transaction, P], R]: ...
@overload
def transactional(
    function: None = None, *, retries: int = RETRIES, **begin: Any
) -> Callable[[Callable[Concatenate[Transaction, P], R]], Callable[Concatenate[Database | Transaction, P], R]]: ...
def transactional(function: Any = None, *, retries: int = RETRIES, **begin: Any) -> Any:
    """Makes a function of a transaction callable with a database too.

    Called with a `Database`, it runs in a new transaction and is retried like `run`. Called with a
    `Transaction`, it joins that one. So such functions compose: the outermost call decides what is one
    transaction.

    Args:
        function: its first parameter takes the transaction.
        retries: how often to try again after the first attempt.
        begin: arguments of `Database.transaction`.

    Returns:
        The function, taking a database or a transaction first.

    Raises:
        TypeError: the function is a generator or coroutine function.
    """
    if function is None:
        return partial(transactional, retries=retries, **begin)
    refuse_deferred(function)

    @wraps(function)
    def call(target: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(target, Transaction) and not hasattr(target, "transaction"):
            raise TypeError(
                f"{function.__name__}() takes a Database or a Transaction first, not {type(target).__name__}."
            )
        return run(target, partial(function, **kwargs) if kwargs else function, *args, retries=retries, **begin)

    return call


class Attempts:
    """The iterator behind `Database.attempts`: a loop whose body is tried until it commits.

    Attributes:
        number: how many attempts have begun.
    """

    def __init__(self, database: Database, retries: int = RETRIES, **begin: Any) -> None:
        self.number = 0
        self._database = database
        self._retries = retries
        self._begin = begin
        self._state = "retry"
        self._commit_failed = False

    def __iter__(self) -> Attempts:
        return self

    def __next__(self) -> Attempt:
        if self._state == "done":
            raise StopIteration
        if self._state == "offered":
            raise RuntimeError("Each attempt must be entered: for attempt in db.attempts(): with attempt as txn: ...")
        self._commit_failed = False
        if self.number:
            time.sleep(backoff(self.number))
        self.number += 1
        self._state = "offered"
        return Attempt(self)

    def _enter(self) -> Transaction:
        self._state = "done"
        return self._database.transaction(**self._begin)

    def _failed(self, error: BaseException, in_commit: bool) -> bool:
        """Takes note of an error that left an attempt; returns whether another attempt is to follow."""
        if not isinstance(error, Error) or not worth_retrying(error, self.number, self._retries):
            return False
        self._state = "retry"
        self._commit_failed = in_commit
        return True

    def __del__(self) -> None:
        if self._commit_failed:
            warnings.warn(
                "A block of Database.attempts() was left by return or break, and its commit then failed: "
                "its changes are lost. Let the block run to its end, or use Database.run().",
                RuntimeWarning,
                stacklevel=2,
            )


class Attempt:
    """One attempt: a context manager whose block is a transaction, and which swallows what the next attempt
    can cure."""

    __slots__ = ("_attempts", "_transaction")

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._transaction: Transaction | None = None

    @property
    def number(self) -> int:
        """Which attempt this is, from 1."""
        return self._attempts.number

    def __enter__(self) -> Transaction:
        self._transaction = self._attempts._enter()
        return self._transaction.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        transaction, self._transaction = self._transaction, None
        if transaction is None:
            return False
        try:
            transaction.__exit__(kind, error, trace)
        except Error as failure:
            if self._attempts._failed(failure, in_commit=error is None):
                return True
            raise
        return error is not None and self._attempts._failed(error, in_commit=False)


def backoff(attempt: int) -> float:
    """Returns how long to wait after an attempt, in seconds.

    Args:
        attempt: the number of the attempt that failed, from 1.

    Returns:
        A random time from 0 to a bound that doubles with each attempt, from 2 ms up to a quarter of a second.
    """
    from random import uniform

    return uniform(0.0, min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempt, 30)))


def worth_retrying(error: Error, attempt: int, retries: int) -> bool:
    """Decides whether to try again; an error that ends the attempts for good gets a note saying so.

    Args:
        error: what ended the attempt.
        attempt: its number, from 1.
        retries: how many attempts may follow the first.

    Returns:
        Whether another attempt should be made.
    """
    if not error.retryable:
        return False
    if attempt <= retries:
        logger.debug("attempt %d ended by %s: trying again", attempt, error.code)
        return True
    times = "once" if attempt == 1 else f"{attempt} times"
    error.add_note(f"enginelib tried this transaction {times}, with back-off between, and gives up.")
    logger.warning("giving up after %d attempts: %s", attempt, error)
    return False


def refuse_deferred(function: Any) -> None:
    """Raises ``TypeError`` for a function whose body would run after the transaction has ended."""
    while isinstance(function, partial):
        function = function.func
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & DEFERRED:
        raise TypeError(
            f"{function.__name__}() is a generator or coroutine function: its body would run after the "
            f"transaction's end. Use a plain function that returns a finished result, such as a list."
        )
