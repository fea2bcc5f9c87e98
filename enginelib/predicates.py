"""Predicates over records: what ``scan(..., where=...)`` takes, and what is locked or remembered of it.

`Key` and `Value` stand for a record's key and value; a slice of them is a byte field, and ``Value.number(0, 8)`` a
field that holds a whole number. Comparing one with bytes (or an int) makes a predicate; ``&``, ``|`` and ``~`` combine
them::

    from enginelib.predicates import Key, Value

    late = (Key >= b"2026-") & (Value[0:4] == b"open") & (Value.number(4, 8) > 30)

Any object with ``matches(key, value) -> bool`` is a predicate. It may have ``bounds() -> (start, stop)``: a half-open
range of keys outside of which nothing matches, None for no bound; and ``disjoint(other) -> bool``: whether no record
can match both, False when unknown. The answers must depend on the arguments alone: locks are tested by them (Eswaran
and others, *The Notions of Consistency and Predicate Locks in a Database System*, CACM 1976).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal, Protocol

Bounds = tuple[bytes | None, bytes | None]
NO_BOUNDS: Bounds = (None, None)


class Predicate(Protocol):
    """What ``where=`` takes."""

    def matches(self, key: bytes, value: bytes) -> bool:
        """Whether the record is one of those meant."""


class Combinable:
    """A predicate that combines with others by ``&``, ``|`` and ``~``."""

    __slots__ = ()

    def matches(self, key: bytes, value: bytes) -> bool:
        """Whether the record is one of those meant."""
        raise TypeError(f"{type(self).__name__} has no test of its own; use one of its subclasses.")

    def bounds(self) -> Bounds:
        """Returns the half-open range of keys outside of which nothing matches; None for no bound."""
        return NO_BOUNDS

    def disjoint(self, other: Any) -> bool:
        """Whether no record can match both this and the other; False when that is not known."""
        if isinstance(other, (And, Or)) and not isinstance(self, (And, Or)):
            return other.disjoint(self)
        return _apart(_bounds(self), _bounds(other))

    def __and__(self, other: Any) -> Combinable:
        return And(self, other)

    def __or__(self, other: Any) -> Combinable:
        return Or(self, other)

    def __invert__(self) -> Combinable:
        return Not(self)


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Comparison(Combinable):
    """A field compared with a constant; made by comparing a `Field`. A record that lacks the field does not match.

    Args:
        field: what of the record is compared.
        sign: ``"=="``, ``"!="``, ``"<"``, ``"<="``, ``">"`` or ``">="``.
        constant: what with: bytes, or an int for a number.
    """

    __slots__ = ("_compare", "constant", "field", "sign")

    def __init__(self, field: Field, sign: str, constant: Any) -> None:
        if isinstance(constant, bool) or not isinstance(constant, int if field.order else bytes):
            wanted = "an int" if field.order else "bytes"
            raise TypeError(f"{field!r} is compared with {wanted}, not {type(constant).__name__}.")
        self.field, self.sign = field, sign
        self.constant: Any = constant
        self._compare = _COMPARE[sign]

    def matches(self, key: bytes, value: bytes) -> bool:
        content = self.field.of(key, value)
        return content is not None and self._compare(content, self.constant)

    def bounds(self) -> Bounds:
        field, constant = self.field, self.constant
        if field.part != "key" or field.order or field.start:
            return NO_BOUNDS
        whole = field.stop is None
        if self.sign == "==":
            # A prefix that is compared whole: keys that begin with it.
            return (constant, constant + b"\0") if whole else (constant, after_prefix(constant))
        if self.sign in (">", ">="):
            return (constant + b"\0" if whole and self.sign == ">" else constant), None
        if self.sign in ("<", "<=") and whole:
            return None, constant + b"\0" if self.sign == "<=" else constant
        if self.sign in ("<", "<="):
            # A constant longer than the field has fields below it that keys above it begin with.
            longer = len(constant) > (field.stop or 0)
            return None, after_prefix(constant[: field.stop]) if longer or self.sign == "<=" else constant
        return NO_BOUNDS

    def disjoint(self, other: Any) -> bool:
        if isinstance(other, Comparison) and other.field == self.field:
            return _never_both(self, other)
        return super().disjoint(other)

    def __repr__(self) -> str:
        return f"({self.field!r} {self.sign} {self.constant!r})"


class And(Combinable):
    """What matches both; made by ``&``."""

    __slots__ = ("one", "other")

    def __init__(self, one: Any, other: Any) -> None:
        self.one, self.other = one, other

    def matches(self, key: bytes, value: bytes) -> bool:
        return bool(self.one.matches(key, value) and self.other.matches(key, value))

    def bounds(self) -> Bounds:
        (low, high), (low_too, high_too) = _bounds(self.one), _bounds(self.other)
        lows = [bound for bound in (low, low_too) if bound is not None]
        highs = [bound for bound in (high, high_too) if bound is not None]
        return max(lows, default=None), min(highs, default=None)

    def disjoint(self, other: Any) -> bool:
        return _disjoint(self.one, other) or _disjoint(self.other, other) or _apart(self.bounds(), _bounds(other))

    def __repr__(self) -> str:
        return f"({self.one!r} & {self.other!r})"


class Or(Combinable):
    """What matches either; made by ``|``."""

    __slots__ = ("one", "other")

    def __init__(self, one: Any, other: Any) -> None:
        self.one, self.other = one, other

    def matches(self, key: bytes, value: bytes) -> bool:
        return bool(self.one.matches(key, value) or self.other.matches(key, value))

    def bounds(self) -> Bounds:
        (low, high), (low_too, high_too) = _bounds(self.one), _bounds(self.other)
        return (
            None if low is None or low_too is None else min(low, low_too),
            None if high is None or high_too is None else max(high, high_too),
        )

    def disjoint(self, other: Any) -> bool:
        return _disjoint(self.one, other) and _disjoint(self.other, other)

    def __repr__(self) -> str:
        return f"({self.one!r} | {self.other!r})"


class Not(Combinable):
    """What does not match; made by ``~``."""

    __slots__ = ("one",)

    def __init__(self, one: Any) -> None:
        self.one = one

    def matches(self, key: bytes, value: bytes) -> bool:
        return not self.one.matches(key, value)

    def __repr__(self) -> str:
        return f"~{self.one!r}"


class Field:
    """A part of a record: `Key`, `Value`, a slice of one, or a number in one. Comparing it makes a predicate.

    Args:
        part: ``"key"`` or ``"value"``.
        start: its first byte.
        stop: the byte after its last; None for the end.
        order: byte order of a number, ``"little"`` or ``"big"``; None for bytes.
        signed: whether the number is in two's complement.
    """

    __slots__ = ("order", "part", "signed", "start", "stop")

    def __init__(
        self,
        part: Literal["key", "value"],
        start: int = 0,
        stop: int | None = None,
        order: Literal["little", "big"] | None = None,
        signed: bool = False,
    ) -> None:
        if start < 0 or (stop is not None and stop < start):
            raise ValueError(f"A field runs from byte 0 or later to a byte behind it, not from {start} to {stop}.")
        self.part, self.start, self.stop, self.order, self.signed = part, start, stop, order, signed

    def __getitem__(self, cut: slice) -> Field:
        """Returns the bytes of a slice, counted from the part's beginning."""
        if not isinstance(cut, slice) or cut.step is not None or self.order:
            raise TypeError("A field is cut by [start:stop], once.")
        return Field(self.part, self.start + (cut.start or 0), None if cut.stop is None else self.start + cut.stop)

    def number(self, start: int, stop: int, order: Literal["little", "big"] = "little", signed: bool = True) -> Field:
        """Returns the number that the bytes from `start` to `stop` hold."""
        return Field(self.part, self.start + start, self.start + stop, order, signed)

    def of(self, key: bytes, value: bytes) -> Any:
        """Returns the field of a record; None when the record is too short for it."""
        whole = key if self.part == "key" else value
        content = whole[self.start : self.stop]
        if self.stop is not None and len(content) < self.stop - self.start:
            return None
        return int.from_bytes(content, self.order, signed=self.signed) if self.order else content

    def _parts(self) -> tuple[Any, ...]:
        return self.part, self.start, self.stop, self.order, self.signed

    def __eq__(self, other: object) -> Any:
        if isinstance(other, Field):
            return self._parts() == other._parts()
        return Comparison(self, "==", other)

    def __ne__(self, other: object) -> Any:
        if isinstance(other, Field):
            return self._parts() != other._parts()
        return Comparison(self, "!=", other)

    def __hash__(self) -> int:
        return hash(self._parts())

    def __lt__(self, other: Any) -> Comparison:
        return Comparison(self, "<", other)

    def __le__(self, other: Any) -> Comparison:
        return Comparison(self, "<=", other)

    def __gt__(self, other: Any) -> Comparison:
        return Comparison(self, ">", other)

    def __ge__(self, other: Any) -> Comparison:
        return Comparison(self, ">=", other)

    def startswith(self, prefix: bytes) -> Combinable:
        """Returns the predicate of what begins with these bytes."""
        return self[0 : len(prefix)] == prefix  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        name = "Key" if self.part == "key" else "Value"
        if self.order:
            return f"{name}.number({self.start}, {self.stop}, {self.order!r}, {self.signed})"
        return (
            name
            if not self.start and self.stop is None
            else f"{name}[{self.start}:{'' if self.stop is None else self.stop}]"
        )


Key = Field("key")
Value = Field("value")


def _bounds(predicate: Any) -> Bounds:
    found: Bounds = predicate.bounds() if hasattr(predicate, "bounds") else NO_BOUNDS
    return found


def _disjoint(one: Any, other: Any) -> bool:
    return bool(hasattr(one, "disjoint") and one.disjoint(other))


def _apart(one: Bounds, other: Bounds) -> bool:
    """Whether two half-open ranges have no key in common."""
    (low, high), (low_too, high_too) = one, other
    return (high is not None and low_too is not None and high <= low_too) or (
        high_too is not None and low is not None and high_too <= low
    )


def after_prefix(prefix: bytes) -> bytes | None:
    """The least key above all that begin with the prefix; None when there is none."""
    cut = prefix.rstrip(b"\xff")
    return cut[:-1] + bytes([cut[-1] + 1]) if cut else None


def _never_both(one: Comparison, other: Comparison) -> bool:
    """Of two comparisons of one field: whether no content satisfies both."""
    for first, second in ((one, other), (other, one)):
        if first.sign == "==" and not _COMPARE[second.sign](first.constant, second.constant):
            return True
        if first.sign in ("<", "<=") and second.sign in (">", ">="):
            if first.constant < second.constant:
                return True
            if first.constant == second.constant and first.sign + second.sign != "<=>=":
                return True
    return False
