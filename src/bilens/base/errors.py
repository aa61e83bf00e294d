"""The error family. One grammar for all: *who* must *be what*; got *what*; *what to do*."""

from bilens.base.words import printable, shortened

LONGEST = 200  # characters of a value that a message carries
PLACES = (" .", "..", "/.")  # folders, whose full stop ends no sentence
LONGEST_WHO = 1000  # and of the file, key or argument it speaks of: as much as most paths have


class BilensError(Exception):
    """Everything bilens refuses, in one line that says who, what it must be, what it got, and what
    to do.

    The line is safe to print: white space is a single space, control characters are written out,
    and a long value is cut.

    >>> raise ShapeError("CP.left", must="be (h, i) with h = 4", got="(3, 5)", todo="Transpose it.")
    Traceback (most recent call last):
    ... bilens.base.errors.ShapeError: CP.left must be (h, i) with h = 4; got (3, 5).
    Transpose it.
    """

    def __init__(self, who: str, *, must: str, got: object, todo: str = "") -> None:
        self.who, self.must, self.got, self.todo = who, must, got, todo
        value = printable(shortened(" ".join(str(got).split()), LONGEST))
        needed = printable(shortened(" ".join(must.split()), 2 * LONGEST))
        sentence = value.endswith(".") and not f" {value}".endswith(PLACES)
        end = "" if sentence else "."  # messages of other libraries are sentences already
        line = f"{printable(shortened(who, LONGEST_WHO))} must {needed}; got {value}{end}"
        super().__init__(line + (f" {printable(todo)}" if todo else ""))

    # keyword-only arguments do not survive the default pickling between processes
    def __reduce__(self):
        return _rebuild, (type(self), self.who, self.must, self.got, self.todo)


def _rebuild(kind: type[BilensError], who: str, must: str, got: object, todo: str) -> BilensError:
    return kind(who, must=must, got=got, todo=todo)


class ArgumentError(BilensError, ValueError):
    """A value is wrong."""


class ShapeError(ArgumentError):
    """A shape, rank, dtype or device does not fit."""


class SizeError(ShapeError, AssertionError):
    """Two sizes that must be equal are not; an AssertionError too, as TransformerLens raises."""


class BroadcastError(ShapeError, RuntimeError):
    """Leading dims do not broadcast; a RuntimeError too, as torch raises."""


class IndexingError(ShapeError, IndexError):
    """An index does not fit what it is an index of."""


class OperandError(ArgumentError, TypeError):
    """A function is asked of a value that does not answer it."""


class NotFiniteError(ArgumentError):
    """A tensor holds NaN or infinity."""


class RangeError(ArgumentError):
    """A figure is too large or too small for the dtype it would be given in."""


class ConfigError(ArgumentError):
    """A configuration has an unknown key or an unsupported value."""


class FileError(ArgumentError):
    """A file or folder is missing, damaged, or not what it should be."""


class TooLargeError(BilensError):
    """An explicit request would make an array above the size the caller allowed."""


class NotExactError(BilensError):
    """No exact tensor exists for what was asked; the text says what to do instead."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C (or SIGTERM) in a long job: where it stopped, and whether going on must be asked for
    (``resume``).
    """

    def __init__(self, where: str, *, resume: bool = False) -> None:
        self.where, self.resume = where, resume
        how = "Resume it to go on." if resume else "Begin it again to go on."
        super().__init__(f"{where}. {how}")
