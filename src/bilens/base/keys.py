"""What a key may hold, said as a table: each known key with the values it may have.

Whatever bilens reads a setting from (a config.json, a recipe, a folder of another library, an
option) is held against such a table; any other key, and any other value, is refused by its name.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bilens.base.errors import BilensError, ConfigError
from bilens.base.numerics import is_whole
from bilens.base.words import shortened

MOST = 2**31 - 1  # of anything that is counted
LONGEST = 100  # characters of a key that nobody knows


class Allowed(ABC):
    """The values that a key may hold."""

    todo: str = ""  # what an error advises

    @abstractmethod
    def allows(self, value: Any) -> bool:
        """Whether ``value`` is one of them."""

    @abstractmethod
    def must(self, value: Any) -> str:
        """What an error says of the values, where ``value`` is none of them."""


@dataclass(frozen=True)
class Anything(Allowed):
    """Any value: the key changes nothing, or what reads it checks it."""

    def allows(self, value: Any) -> bool:
        return True

    def must(self, value: Any) -> str:
        return "be anything"


@dataclass(frozen=True)
class Whole(Allowed):
    """A whole number from ``least`` to ``most``."""

    least: int = 1
    most: int | float = math.inf

    def allows(self, value: Any) -> bool:
        return is_whole(value) and self.least <= value <= self.most

    def must(self, value: Any) -> str:
        if is_whole(value) and value > self.most:
            return f"be {self.least} … {self.most}"
        return f"be a whole number ≥ {self.least}"


@dataclass(frozen=True)
class Between(Allowed):
    """A whole number from ``least`` to ``most``, where both are worth saying."""

    least: int
    most: int

    def allows(self, value: Any) -> bool:
        return is_whole(value) and self.least <= value <= self.most

    def must(self, value: Any) -> str:
        return f"be {self.least} … {self.most}"


@dataclass(frozen=True)
class Number(Allowed):
    """A finite number of at least ``least``, above ``above`` and below ``below``."""

    least: int | float = -math.inf
    above: int | float = -math.inf
    below: int | float = math.inf

    def allows(self, value: Any) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.least <= value < self.below and value > self.above

    def must(self, value: Any) -> str:
        if self.below < math.inf:
            return f"be {self.least:g} … {self.below:g}, without {self.below:g}"
        if self.above > -math.inf:
            return f"be a finite number > {self.above:g}"
        if self.least > -math.inf:
            return f"be a finite number ≥ {self.least:g}"
        return "be a finite number"


@dataclass(frozen=True)
class Flag(Allowed):
    """True or false."""

    def allows(self, value: Any) -> bool:
        return isinstance(value, bool)

    def must(self, value: Any) -> str:
        return "be true or false"


@dataclass(frozen=True)
class Table(Allowed):
    """An object, or a table of TOML: names with their values."""

    told: str = "an object"

    def allows(self, value: Any) -> bool:
        return isinstance(value, Mapping)

    def must(self, value: Any) -> str:
        return f"be {self.told}"


@dataclass(frozen=True)
class Words(Allowed):
    """A list of texts."""

    def allows(self, value: Any) -> bool:
        return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)

    def must(self, value: Any) -> str:
        return "be a list of texts"


@dataclass(frozen=True)
class OneOf(Allowed):
    """One of these names."""

    names: tuple[Any, ...]

    def allows(self, value: Any) -> bool:
        return any(same(value, name) for name in self.names)

    def must(self, value: Any) -> str:
        return f"be one of {', '.join(map(str, self.names))}"


@dataclass(frozen=True)
class Only(Allowed):
    """The first of these values, or another way to write it: any other asks for what bilens does
    not have.
    """

    values: tuple[Any, ...]
    todo: str = "bilens does not have what it asks for."

    def allows(self, value: Any) -> bool:
        return any(same(value, one) for one in self.values)

    def must(self, value: Any) -> str:
        return f"be {self.values[0]!r}"


@dataclass(frozen=True)
class Maybe(Allowed):
    """As ``allowed``, or nothing (None)."""

    allowed: Allowed

    def allows(self, value: Any) -> bool:
        return value is None or self.allowed.allows(value)

    def must(self, value: Any) -> str:
        return self.allowed.must(value)


@dataclass(frozen=True)
class Keys:
    """All that may be said: each key with what it may hold, and how any other key is refused."""

    allowed: Mapping[str, Allowed]
    must: str = "be a key it knows"
    todo: str = ""
    error: type[BilensError] = ConfigError

    def check(self, given: Mapping[str, Any], who: str = "") -> None:
        """Raise for the first of ``given`` that is not known, or may not hold what it holds.
        ``who`` stands before its name.
        """
        for key, value in given.items():
            if key not in self.allowed:
                name = who + shortened(str(key), LONGEST)
                raise self.error(name, must=self.must, got=repr(value), todo=self.todo)
            require(f"{who}{key}", value, self.allowed[key], self.error)

    def check_fields(self, value: object, who: str = "") -> None:
        """Raise for the first field of ``value`` in the table that may not hold what it holds."""
        for key, allowed in self.allowed.items():
            require(f"{who}{key}", getattr(value, key), allowed, self.error)


def require(who: str, value: Any, allowed: Allowed, error: type[BilensError] = ConfigError) -> None:
    """Raise ``error`` unless ``who`` may hold ``value``."""
    if not allowed.allows(value):
        raise error(who, must=allowed.must(value), got=repr(value), todo=allowed.todo)


def each(names: Iterable[str], allowed: Allowed) -> dict[str, Allowed]:
    """A table in which all of ``names`` may hold the same."""
    return dict.fromkeys(names, allowed)


def same(one: Any, two: Any) -> bool:
    """Whether two values are equal in JSON, where 0 is not false and 1.0 is 1. An array is equal
    to nothing.
    """
    equal = one == two
    single = getattr(equal, "shape", ()) == ()  # of an array there is an answer for each entry
    return isinstance(one, bool) == isinstance(two, bool) and single and bool(equal)
