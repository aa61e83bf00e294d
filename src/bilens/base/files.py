"""Folders held by one writer at a time, and files of which a kill or a full disk never leaves half.

What is being written lies in a folder ``.saving-…`` beside its place, and its writer holds a lock
on that folder. A kill lets go of the lock, so what a dead writer left can be told from what a live
one is at, and the next holder sweeps it away.
"""

import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors import SafetensorError

from bilens.base.errors import BilensError, FileError
from bilens.base.reading import read_json_object

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None

SAVING = ".saving-"
NEWLY = 0o777 | stat.S_ISVTX  # the mode of a folder that nobody has held yet, see _settled
NEW = "be a new or empty folder"
NOWHERE = "a link to nothing"


@contextmanager
def writing(place: str | Path, todo: str = "", must: str = "be writable") -> Iterator[None]:
    """One FileError that names ``place`` for whatever the disk refuses in this block: full,
    read-only, over a quota, gone.

    Told by the kind of the error, never by its words: OSError, and safetensors' own, which stands
    for one.
    """
    if "\0" in str(place):
        raise FileError(str(place), must="be a path", got="a NUL in it")
    try:
        yield
    except FileError:
        raise
    except (OSError, SafetensorError) as error:
        raise FileError(str(place), must=must, got=reason(error), todo=todo) from error


def reason(error: BaseException) -> str:
    """What the system says of a fault, without the path that is named anyway."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; rename it over ``path`` when the block ends well, remove it when not.

    The file has the permissions that ``open`` would have given it: those of the file it replaces,
    or what the umask leaves. Folders that were made for it go again where it is not written.
    Errors: FileError where the folder cannot be made or written, or
    ``path`` is no file (a folder, a device).
    """
    path = Path(path)
    with ExitStack() as stack:
        with writing(path, must="be in a folder that can be written"):
            if path.exists() and not path.is_file():
                raise FileError(
                    str(path), must="be writable: a file, or a new one", got="something else"
                )
            stack.callback(_remove_empty, _missing(path.parent))
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep(path.parent)
            folder = stack.enter_context(_temporary(path.parent))
        with writing(path):
            yield folder / path.name
            _publish(folder, path.parent, "")


@contextmanager
def saved_together(folder: str | Path, last: str) -> Iterator[Path]:
    """Yield a temporary folder whose files are renamed into ``folder`` when the block ends well,
    that named ``last`` last. Folders that were made for them go again where none is written.

    Errors: FileError where ``folder`` cannot be made or written.
    """
    folder = Path(folder)
    with writing(folder, must="be a folder that can be written"), ExitStack() as stack:
        stack.callback(_remove_empty, _missing(folder))
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        temporary = stack.enter_context(_temporary(folder))
        yield temporary
        _publish(temporary, folder, last)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def held(folder: str | Path) -> Iterator[Path]:
    """Hold ``folder``, made where it is not there, for this writer alone; what killed writers left
    in it is swept away.

    A folder that was made for this and is empty in the end goes again. The lock is on the folder
    itself and ends with the process, however that ends. Errors: FileError for a folder that another
    process or thread is at work in, and in the end for one that was removed or replaced meanwhile:
    what writers made in its place is not all of it.
    """
    folder = Path(folder)
    with ExitStack() as stack:
        with writing(folder):
            if folder.exists() and not folder.is_dir():
                raise FileError(str(folder), must=NEW, got="a file")
            made = _missing(folder)
            stack.enter_context(_locked(folder))
            if _settled(folder) and not made:  # another made it, and is refused
                made = [folder]
            sweep(folder)
            mine = folder.stat()  # no other folder's while the lock is held
        stack.callback(_remove_empty, made)
        yield folder
        _require_there(folder, mine)


def _require_there(folder: Path, mine: os.stat_result) -> None:
    with writing(folder, must="stay in its place"):
        if not os.path.samestat(mine, folder.stat()):
            got = "another folder, without what was written before"
            raise FileError(str(folder), must="stay in its place", got=got)


DIGEST = re.compile("[0-9a-f]{16,}")
OTHERS = {  # what another checksum says, in words, by what it is of
    "content": "other data",
    "text": "another text",
    "model": "another model",
    "activations of": "another model",
}


@dataclass(frozen=True)
class Job:
    """What is done in a folder, as ``file`` in it says from the beginning.

    ``about``: what makes it this job and no other; None as a value is what it began with, or that
    of ``first``. ``name``: how errors call it. ``error``: the kind for a folder that was begun with
    something else.
    """

    file: str
    about: Mapping[str, Any]
    first: Mapping[str, Any] = field(default_factory=dict)
    name: str = "the computation"
    error: type[BilensError] = FileError

    def begun(self) -> dict[str, Any]:
        """What the file of a new job says."""
        first = {key: value for key, value in self.first.items() if self.about.get(key) is None}
        whole = dict(self.about) | first  # in the order of ``resumed``
        return {key: value for key, value in whole.items() if value is not None or key in first}

    def resumed(self, folder: Path) -> dict[str, Any]:
        """What the file says of a job that was begun. Errors: ``error`` for the first of ``about``
        that is another.
        """
        file = folder / self.file
        stored = read_json_object(file)
        for key, value in self.about.items():
            began = stored.get(key, {} if value == {} else None)  # older jobs may not say
            if value is not None and began != value:
                where, old, new = _apart(key, began, value)
                digests = _is_digest(old) and _is_digest(new)
                must = f"be what {self.name} began with" + ("" if digests else f", {old!r}")
                got = OTHERS.get(key, "another, by its checksum") if digests else repr(new)
                todo = "Name another folder."
                raise self.error(f"{file}: {where}", must=must, got=got, todo=todo)
        return {key: stored.get(key) for key in self.about}


def _is_digest(value: object) -> bool:
    """Whether it is a checksum, which says nothing to a person."""
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None


def _apart(key: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """The first of two mappings in which they differ, "recipe.seed", and both values."""
    while isinstance(old, Mapping) and isinstance(new, Mapping):
        name = next(name for name in {**old, **new} if old.get(name) != new.get(name))
        key, old, new = f"{key}.{name}", old.get(name), new.get(name)
    return key, old, new


@contextmanager
def claim(folder: str | Path, job: Job, resume: bool = True) -> Iterator[tuple[bool, dict]]:
    """Hold ``folder`` for ``job`` while the block lasts: whether it is new, and what its file says.

    A folder that is new or empty begins it; with ``resume`` one where it was begun goes on. Errors:
    FileError for a folder that holds anything else, or that another process is at work in; the
    job's own where it was begun with something else.
    """
    with held(folder) as mine:
        begun = (mine / job.file).is_file()
        if begun and resume:
            yield False, job.resumed(mine)
            return
        must = f"{NEW}, or hold {job.name}" if resume else NEW
        todo = "Resume it to go on, or name another folder." if begun else "Name another folder."
        require_empty(mine, must, todo)
        about = job.begun()
        write_text(mine / job.file, json.dumps(about, indent=2) + "\n")
        yield True, about


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """``held``, of a folder that is not there yet or is empty. Errors: FileError for any other."""
    with held(folder) as mine:
        require_empty(mine)
        yield mine


def require_empty(folder: Path, must: str = NEW, todo: str = "Name another folder.") -> None:
    """Raise FileError unless ``folder`` holds nothing."""
    if any(folder.iterdir()):
        raise FileError(str(folder), must=must, got="files", todo=todo)


def empty(folder: Path) -> None:
    """Remove what is in a folder that is held."""
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left half-written in ``folder``; what a live one is at
    stays.
    """
    for left in folder.glob(f"{SAVING}*"):
        with suppress(OSError), _lock(left, needed=True):
            shutil.rmtree(left, ignore_errors=True)


def _missing(folder: Path) -> list[Path]:
    """``folder`` and those above it that are not there, the innermost first. Errors: FileError for
    a link in the place of one, which nothing is made behind.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in missing:
        if place.is_symlink():
            raise FileError(str(place), must="be a folder, or new", got=NOWHERE)
    return missing


def _settled(folder: Path) -> bool:
    """Whether ``folder`` was made to be held, and is held for the first time: its sticky bit says
    so, and comes off. Of two that begin at one moment the one that made it may be refused, and the
    other then knows that it is to go again.
    """
    mode = stat.S_IMODE(folder.stat().st_mode)
    newly = bool(mode & stat.S_ISVTX) and not any(folder.iterdir())
    if newly:
        folder.chmod(mode & ~stat.S_ISVTX)
    return newly


def _remove_empty(made: list[Path]) -> None:
    for place in made:
        with suppress(OSError):  # it holds something, or was not made after all
            place.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """``_lock``, of a folder that is made where it is not there (again, where its last holder
    removed it meanwhile).
    """
    while True:
        folder.mkdir(NEWLY, parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                same = stack.enter_context(_lock(folder))
            except BlockingIOError as error:
                todo = "Wait until it has ended, or name another folder."
                raise FileError(
                    str(folder), must="be free", got="another run at work in it", todo=todo
                ) from error
            if same:
                yield
                return


@contextmanager
def _lock(folder: Path, needed: bool = False) -> Iterator[bool]:
    """Hold the lock on ``folder``; whether that is what lies there now. Errors: BlockingIOError
    where another holds it.

    Where a file system has no such locks nothing is held, or, where it is ``needed``, OSError
    raised.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        _flock(handle, needed)
        yield _is_at(handle, folder)
    finally:
        os.close(handle)


def _flock(handle: int, needed: bool) -> None:
    if fcntl is None:
        if needed:
            raise OSError("no locks on this system")
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # none on this file system
        if needed:
            raise


def _is_at(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A folder ``.saving-…`` in ``folder``, locked by this writer, gone in the end."""
    with ExitStack() as stack:
        while True:
            made = Path(tempfile.mkdtemp(prefix=SAVING, dir=folder))
            # a sweeper was faster than the lock: another one
            with suppress(BlockingIOError, FileNotFoundError):
                if stack.enter_context(_lock(made)):
                    break
        stack.callback(shutil.rmtree, made, ignore_errors=True)
        yield made


def _publish(temporary: Path, folder: Path, last: str) -> None:
    """Rename the files of ``temporary`` into ``folder``, each whole on the disk before, ``last``
    after the others.
    """
    plain = _plain_mode(temporary)
    files = sorted(temporary.iterdir(), key=lambda file: file.name == last)
    for file in files:
        place = folder / file.name
        file.chmod(place.stat().st_mode & 0o7777 if place.is_file() else plain)
        _flush(file)
    for file in files:
        os.replace(file, folder / file.name)


def _plain_mode(folder: Path) -> int:
    """The permissions of a file that ``open`` makes in ``folder``; the umask cannot be asked
    without being changed.
    """
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        probe = Path(inside) / "probe"
        probe.touch()
        return probe.stat().st_mode & 0o7777


def _flush(file: Path) -> None:
    """Some disks say only now that they are full (quotas, network file systems)."""
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())
