"""Atomic writing of files: a temporary file beside the target, then renamed; and checks of the target."""

import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import ConfigurationError

NAME_BYTES = 255  # of a file's name, on nearly all file systems
# Not the fault of the file at hand: the next one would fail as well.
OF_THE_MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ESTALE})
_OF_WRITING = OF_THE_MACHINE | {
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.EIO,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
}
# characters that move to another line or column, color a terminal, or reverse the direction of text
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class UnwritableError(OSError):
    """A file cannot be written, for a reason that lies in its folder, its name or the machine.

    Args:
        number: of `errno`.
        message: the whole text, for people.
        path: the file.
        written: bytes of it that were written before that.
    """

    def __init__(self, number: int, message: str, path: str, written: int = 0):
        super().__init__(number, message)
        self.path, self.written = path, written

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def written(path: str | os.PathLike) -> Iterator[None]:
    """Context in which errors of writing to `path` itself are raised with the messages of `replacing`.

    Raises:
        UnwritableError: as `replacing` does.
    """
    try:
        yield
    except OSError as error:
        if (refused := _unwritable(error, Path(path), Path(path))) is not None:
            raise refused from error
        raise


@contextmanager
def replacing(path: str | os.PathLike, like: str | os.PathLike | None = None) -> Iterator[Path]:
    """Yields a hidden name beside `path` to write to, and renames that file to `path` after success.

    A reader never finds a partial file, and an earlier file at `path` stays until the new one is complete. On an error,
    or where nothing was written, nothing is left behind. The suffix is that of `path`, as writers choose their format
    by it; the rest of the name is short, so that any valid name can be written.

    Args:
        path: the file.
        like: a file whose permissions (less the umask, as `cp` does) and modification time the new one gets. None: the
            permissions of the file that is replaced, if any. While it is written, only its owner may read it.

    Raises:
        UnwritableError: full or read-only disk, no permission, too long a name; whatever exception the writing library
            raised.
    """
    path = Path(path)
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= 32 else ""  # a longer one is no format's
    # by chance, not by process: processes of several machines may share a folder and a number
    temporary = path.with_name(f".{secrets.token_hex(6)}{suffix}")
    try:
        mode = _reserved(temporary, path, like)
        yield temporary
        if temporary.exists() and not (mode is not None and _is_untouched(temporary)):
            with suppress(OSError):  # file systems of cameras support neither
                if like is not None:
                    status = os.stat(like)
                    os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))
                if mode is not None:
                    os.chmod(temporary, mode)
            os.replace(temporary, path)
    except Exception as error:
        if (refused := _unwritable(error, path, temporary)) is not None:
            raise refused from error
        raise
    finally:
        with suppress(OSError):  # the reason is reported already
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | os.PathLike, needed: int = 0) -> Iterator[Path]:
    """Gives a hidden new folder, on the disk of the folder `path`, to write to; removes what is left of it at the end.

    Args:
        path: the folder that its content is for. If it exists, the new one is made in it, because it may be a mounted
            disk; else beside it, after its parent.
        needed: bytes of that content, for the message; 0: not known.

    Raises:
        UnwritableError: as `replacing` does.
    """
    path = Path(path)
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = (path if path.is_dir() else path.parent) / f".{secrets.token_hex(6)}"
    try:
        temporary.mkdir()
        yield temporary
    except Exception as error:
        if (refused := _unwritable(error, temporary.with_name(path.name), temporary, needed)) is not None:
            raise refused from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _reserved(temporary: Path, path: Path, like: str | os.PathLike | None) -> int | None:
    """Makes the temporary file for its owner alone; returns the permissions that it gets. None: those of any file."""
    if like is not None:
        wanted = stat.S_IMODE(os.stat(like).st_mode) & 0o777
    elif os.path.isfile(path) and not os.path.islink(path):
        wanted = stat.S_IMODE(os.stat(path).st_mode) & 0o777
    else:
        return None
    made = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, wanted if like is not None else 0o600)
    try:
        granted = stat.S_IMODE(os.fstat(made).st_mode)  # what the umask leaves
        with suppress(OSError):
            os.chmod(temporary, 0o600)
        os.utime(temporary, (0, 0))  # by which any writing, also of nothing, is noticed
    finally:
        os.close(made)
    return granted if like is not None else wanted


def _is_untouched(temporary: Path) -> bool:
    status = temporary.stat()
    return status.st_size == 0 and status.st_mtime == 0


def _unwritable(error: Exception, path: Path, temporary: Path, needed: int = 0) -> UnwritableError | None:
    """The reason why `temporary`, a file or a folder, cannot be written, where that caused `error`; else None."""
    number = written = 0
    if isinstance(error, UnwritableError):
        if not _lies_in(error.path, temporary):  # else of a `replacing` inside of this one
            return None
        number, written = error.errno or 0, error.written
    elif isinstance(error, OSError) and error.errno:
        if error.filename is None or _lies_in(error.filename, temporary):
            number = error.errno if error.errno in _OF_WRITING else 0
    else:
        said = re.search(r"\(os error (\d+)\)", str(error))  # by what is written in Rust: safetensors
        number = int(said[1]) if said else _refusal_of_more(temporary)
    if not number:
        return None
    with suppress(OSError):
        written = max(written, _size(temporary))
    return UnwritableError(number, _words(number, path, written, needed), str(path), written)


def _lies_in(name: str | bytes | os.PathLike, temporary: Path) -> bool:
    path = Path(os.fsdecode(name))
    return path == temporary or temporary in path.parents


def _size(path: Path) -> int:
    files = (one for one in path.rglob("*") if one.is_file()) if path.is_dir() else (path,)
    return sum(one.stat().st_size for one in files)


def _refusal_of_more(temporary: Path) -> int:
    """The error number of writing more to a file, or a file in a folder; 0 where that works.

    Libraries written in C report a full disk by messages such as "encoder error -2", without a number.
    """
    if temporary.is_dir():
        temporary = temporary / secrets.token_hex(6)
    try:
        with open(temporary, "ab") as file:
            file.write(bytes(2**16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno or 0
    return 0


def _words(number: int, path: Path, written: int, needed: int = 0) -> str:
    folder = str(path.parent)
    if number == errno.ENOSPC:
        room = shutil.disk_usage(folder).free + written  # what is written is removed again
        if hasattr(os, "statvfs") and os.statvfs(folder).f_favail == 0:
            return f"the disk of {folder!r} holds no more files (inodes): remove some, or choose another folder"
        need = (
            f"about {in_bytes(needed)}, {in_bytes(room)} are free"
            if needed > room
            else (f"more than the {in_bytes(room)} that are free")
        )
        return f"the disk of {folder!r} is full: {path.name!r} needs {need}; make room, or choose another folder"
    return {
        errno.EDQUOT: f"the disk quota for {folder!r} is used up: remove files of yours, or choose another folder",
        errno.EROFS: f"the file system of {folder!r} is read-only: choose another folder",
        errno.EACCES: f"no permission to write in {folder!r}",
        errno.EPERM: f"no permission to write in {folder!r}",
        errno.EFBIG: f"{str(path)!r} becomes larger than a file may be there (file system, `ulimit -f`)",
        errno.ENAMETOOLONG: f"the name {path.name!r} of {len(os.fsencode(path.name))} bytes is too long for {folder!r}",
        errno.ENOENT: f"the folder {folder!r} does not exist (any more)",
        errno.ENOTDIR: f"{folder!r} is no folder",
    }.get(number, f"{str(path)!r} cannot be written: {os.strerror(number)}")


def in_bytes(count: int) -> str:
    """A number of bytes for people: "812 bytes", "3.2 MB"."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def check_writable(folder: str | os.PathLike) -> None:
    """Checks that files can be written in a folder, or the folder be made, by making a folder for a moment.

    Raises:
        UnwritableError: they cannot.
    """
    folder = Path(folder).absolute()
    existing = next((one for one in (folder, *folder.parents) if os.path.lexists(one)), folder)
    number = 0
    if not existing.is_dir():
        number = errno.ENOTDIR
    elif hasattr(os, "statvfs") and os.statvfs(existing).f_flag & os.ST_RDONLY:
        number = errno.EROFS
    elif not os.access(existing, os.W_OK | os.X_OK):
        number = errno.EACCES
    if number:
        raise UnwritableError(number, _words(number, existing / "file", 0), str(folder))
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".", dir=existing))  # /proc and immutable folders let nobody write
    except OSError as error:
        if error.errno not in (
            errno.ENOSPC,
            errno.EDQUOT,
        ):  # the file to write may fit
            message = f"nothing can be written in {str(existing)!r}: {os.strerror(error.errno or 0)}"
            raise UnwritableError(error.errno or 0, message, str(folder)) from error


def of_the_machine(error: BaseException) -> bool:
    """Whether an error is not the fault of the file at hand, such as a full disk: the next file would fail as well."""
    return isinstance(error, OSError) and error.errno in OF_THE_MACHINE


def other_kind(path: str | os.PathLike) -> str:
    """What `path` is instead of a regular file; "" for a regular one. Only those are read: others may block.

    Raises:
        OSError: it cannot be accessed.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "a link that leads nowhere" if os.path.islink(path) else "no such file"
    return "" if stat.S_ISREG(mode) else next((kind for test, kind in _KINDS if test(mode)), "no regular file")


def read_regular(path: str | os.PathLike) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it cannot be read, or is a named pipe, a socket or a device.
    """
    if kind := other_kind(path):
        raise OSError(errno.ENOENT if kind == "no such file" else errno.EINVAL, kind, os.fspath(path))
    return Path(path).read_bytes()


def text_of(path: str | os.PathLike, argument: str, kind: str) -> str:
    """The content of a text file (UTF-8) that an argument names.

    Args:
        path: the file.
        argument, kind: for the message: "config", "YAML".

    Raises:
        ConfigurationError: there is none, it cannot be read, or is no text.
    """
    try:
        return read_regular(path).decode("utf-8-sig")
    except OSError as error:
        reason = str(error.strerror)
    except UnicodeDecodeError:
        reason = "it is no text (UTF-8)"
    raise ConfigurationError(f"`{argument}` must be a readable {kind} file, got {os.fspath(path)!r}: {reason}")


def shortened(name: str, more: str = "", *, append: bool = False) -> str:
    """The name of a file with `more` before its suffix, or behind it; the stem is cut where the name is too long."""
    stem, suffix = os.path.splitext(name)
    end = suffix + more if append else more + suffix
    while stem and len(os.fsencode(stem + end)) > NAME_BYTES:
        stem = stem[:-1]
    return stem + end


def printable(name: str) -> str:
    """A name as one line of text that every library takes: bytes that are not UTF-8 become "\\xe9"."""
    return one_line(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def one_line(text: str) -> str:
    """Text that contains file names as one line without control characters: a newline becomes "\\n"."""
    return _CONTROLS.sub(lambda match: repr(match[0])[1:-1], text)


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Writes `text` to `path` as `replacing` does, in UTF-8 (file names that are not keep their bytes); returns
    `path`."""
    path = Path(path)
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path
