"""Atomic writing of files by renaming a temporary file, and checks of paths."""

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

NAME_BYTES = 255  # maximum length of a file name on nearly all file systems
# Errors that do not depend on the file: the next file would fail as well.
CONCERN_ALL_FILES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ESTALE})
_WRITE_ERRORS = CONCERN_ALL_FILES | {
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.EIO,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
}
# characters that break lines, control a terminal, or change the direction of text
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_FILE_TYPES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class UnwritableError(OSError):
    """A file cannot be written because of its folder, its name or the machine.

    Args:
        number: error number of `errno`.
        message: full message.
        path: path of the file.
        written: number of bytes written before the error.
    """

    def __init__(self, number: int, message: str, path: str, written: int = 0):
        super().__init__(number, message)
        self.path, self.written = path, written

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def written(path: str | os.PathLike) -> Iterator[None]:
    """Context for writing to `path` directly, with the error messages of `replacing`.

    Raises:
        UnwritableError: see `replacing`.
    """
    try:
        yield
    except OSError as error:
        if (refused := _unwritable(error, Path(path), Path(path))) is not None:
            raise refused from error
        raise


@contextmanager
def replacing(path: str | os.PathLike, like: str | os.PathLike | None = None) -> Iterator[Path]:
    """Yields the path of a hidden temporary file, to be written, and renames it to `path` after success.

    Readers never see a partial file, and an existing file stays until the new one is complete. On an error, or if
    nothing was written, the temporary file is removed. It has the suffix of `path`, which determines the format for
    many writers, and a short name, so that any valid file name can be written.

    Args:
        path: file to write.
        like: file whose permissions (minus the umask, as with `cp`) and modification time are copied. None: the
            permissions of the file to replace; a new file has the default ones. Except for a new file without `like`,
            the temporary file is readable by its owner only.

    Raises:
        UnwritableError: full or read-only disk, no permission, or too long a name; replaces any exception of the
            library that writes.
    """
    path = Path(path)
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= 32 else ""  # longer ones are not suffixes of formats
    # random, not the process id, since processes of several machines may share a folder
    temporary = path.with_name(f".{secrets.token_hex(6)}{suffix}")
    try:
        mode = _reserved(temporary, path, like)
        yield temporary
        if temporary.exists() and not (mode is not None and _is_untouched(temporary)):
            with suppress(OSError):  # file systems of memory cards do not support this
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
        with suppress(OSError):  # the error is already reported
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | os.PathLike, needed: int = 0) -> Iterator[Path]:
    """Yields a new hidden folder on the disk of `path`, for files that the caller then moves; removes it at the end.

    Args:
        path: target folder of the files. If it exists, the hidden folder is created in it, since it may be a mounted
            disk; else next to it.
        needed: size of the content in bytes, for messages; 0: unknown.

    Raises:
        UnwritableError: see `replacing`.
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
    """Creates the temporary file, readable by its owner only; returns its final permissions (None: the default)."""
    replaces = os.path.isfile(path) and not os.path.islink(path)
    if like is None and not replaces:
        return None
    mode = stat.S_IMODE(os.stat(path if like is None else like).st_mode) & 0o777
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if like is None else mode)
    try:
        if like is not None:
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)  # after the umask
        with suppress(OSError):
            os.chmod(temporary, 0o600)
        os.utime(temporary, (0, 0))  # to detect any write, even of zero bytes
    finally:
        os.close(descriptor)
    return mode


def _is_untouched(temporary: Path) -> bool:
    """Whether nothing was written to a file of `_reserved`."""
    status = temporary.stat()
    return status.st_size == 0 and status.st_mtime == 0


def _unwritable(error: Exception, path: Path, temporary: Path, needed: int = 0) -> UnwritableError | None:
    """An UnwritableError with a clear message, if `error` occurred because `temporary` cannot be written; else None."""
    number = written = 0
    if isinstance(error, UnwritableError):
        if not _lies_in(error.path, temporary):  # otherwise it is from a nested `replacing`
            return None
        number, written = error.errno or 0, error.written
    elif isinstance(error, OSError) and error.errno:
        if error.filename is None or _lies_in(error.filename, temporary):
            number = error.errno if error.errno in _WRITE_ERRORS else 0
    else:
        reported = re.search(r"\(os error (\d+)\)", str(error))  # message of Rust libraries (safetensors)
        number = int(reported[1]) if reported else _errno_of_writing(temporary)
    if not number:
        return None
    with suppress(OSError):
        written = max(written, _size(temporary))
    return UnwritableError(number, _message(number, path, written, needed), str(path), written)


def _lies_in(name: str | bytes | os.PathLike, temporary: Path) -> bool:
    """Whether a path is that of a temporary file or folder, or of a file in that folder."""
    path = Path(os.fsdecode(name))
    return path == temporary or temporary in path.parents


def _size(path: Path) -> int:
    files = (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files)


def _errno_of_writing(temporary: Path) -> int:
    """Error number of an attempt to write to a file, or to a new file in a folder; 0 on success.

    Some C libraries report a full disk without an error number, by messages such as "encoder error -2".
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


def _message(number: int, path: Path, written: int, needed: int = 0) -> str:
    """Returns the message of an error number; the other arguments are as for `_unwritable`, with bytes `written`."""
    folder = str(path.parent)
    if number == errno.ENOSPC:
        if hasattr(os, "statvfs") and os.statvfs(folder).f_favail == 0:
            return f"the disk of {folder!r} holds no more files (inodes): remove some, or choose another folder"
        free = shutil.disk_usage(folder).free + written  # written bytes are freed
        need = f"more than the {in_bytes(free)} available"
        if needed > free:
            need = f"about {in_bytes(needed)}, {in_bytes(free)} are free"
        return f"the disk of {folder!r} is full: {path.name!r} needs {need}; make room, or choose another folder"
    return {
        errno.EDQUOT: f"the disk quota for {folder!r} is used up: remove some of your files, or choose another folder",
        errno.EROFS: f"the file system of {folder!r} is read-only: choose another folder",
        errno.EACCES: f"no permission to write in {folder!r}",
        errno.EPERM: f"no permission to write in {folder!r}",
        errno.EFBIG: f"{str(path)!r} exceeds the maximum file size (file system, `ulimit -f`)",
        errno.ENAMETOOLONG: f"the name {path.name!r} of {len(os.fsencode(path.name))} bytes is too long for {folder!r}",
        errno.ENOENT: f"the folder {folder!r} does not exist",
        errno.ENOTDIR: f"{folder!r} is not a folder",
    }.get(number, f"{str(path)!r} cannot be written: {os.strerror(number)}")


def in_bytes(count: int) -> str:
    """A size for messages: "812 bytes", "3.2 MB"."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def check_writable(folder: str | os.PathLike) -> None:
    """Checks, by creating a temporary folder, that a folder is writable or can be created.

    Raises:
        UnwritableError: writing is not possible.
    """
    folder = Path(folder).absolute()
    existing = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    number = 0
    if not existing.is_dir():
        number = errno.ENOTDIR
    elif hasattr(os, "statvfs") and os.statvfs(existing).f_flag & os.ST_RDONLY:
        number = errno.EROFS
    elif not os.access(existing, os.W_OK | os.X_OK):
        number = errno.EACCES
    if number:
        raise UnwritableError(number, _message(number, existing / "file", 0), str(folder))
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".", dir=existing))  # detects /proc and immutable folders
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # with these, a smaller file may still fit
            message = f"nothing can be written in {str(existing)!r}: {os.strerror(error.errno or 0)}"
            raise UnwritableError(error.errno or 0, message, str(folder)) from error


def concerns_all_files(error: BaseException) -> bool:
    """Whether an error does not depend on the file, such as a full disk: the next file would fail as well."""
    return isinstance(error, OSError) and error.errno in CONCERN_ALL_FILES


def other_kind(path: str | os.PathLike) -> str:
    """Describes what `path` is if it is not a regular file, whose reading might block; "" for a regular file.

    Raises:
        OSError: `path` cannot be accessed.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "a broken link" if os.path.islink(path) else "no such file"
    return "" if stat.S_ISREG(mode) else next((kind for test, kind in _FILE_TYPES if test(mode)), "not a regular file")


def read_regular(path: str | os.PathLike) -> bytes:
    """Reads a regular file.

    Raises:
        OSError: the file cannot be read, or is a named pipe, a socket or a device.
    """
    if kind := other_kind(path):
        raise OSError(errno.ENOENT if kind == "no such file" else errno.EINVAL, kind, os.fspath(path))
    return Path(path).read_bytes()


def text_of(path: str | os.PathLike, argument: str, kind: str) -> str:
    """Reads a text file (UTF-8) given as an argument.

    Args:
        path: path of the file.
        argument, kind: name of the argument and file format for the message, such as "config" and "YAML".

    Raises:
        ConfigurationError: the file does not exist, cannot be read, or is not text.
    """
    try:
        return read_regular(path).decode("utf-8-sig")
    except OSError as error:
        reason = str(error.strerror)
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    raise ConfigurationError(f"`{argument}` must be a readable {kind} file, got {os.fspath(path)!r}: {reason}")


def shortened(name: str, more: str = "", *, append: bool = False) -> str:
    """Inserts `more` before the suffix of a file name, or appends it; cuts the stem of names that are too long."""
    stem, suffix = os.path.splitext(name)
    end = suffix + more if append else more + suffix
    while stem and len(os.fsencode(stem + end)) > NAME_BYTES:
        stem = stem[:-1]
    return stem + end


def printable(name: str) -> str:
    """A file name as one line of valid text: bytes that are not UTF-8 become "\\xe9"."""
    return one_line(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def one_line(text: str) -> str:
    """Text with file names as one line without control characters: a newline becomes "\\n"."""
    return _CONTROLS.sub(lambda match: repr(match[0])[1:-1], text)


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Writes `text` to `path` in UTF-8 by `replacing`; undecodable file names keep their bytes. Returns `path`."""
    path = Path(path)
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path
