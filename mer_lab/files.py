"""Files that are whole or absent: atomic writing, content hashes, and where the caches live."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock

from mer_lab.errors import MerLabError

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds notebooks/, figures/ and results/, when the package runs from a checkout."""

TEMPLATES = Path(__file__).parent / "templates"
"""Pages, styles and scripts that come with the package."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PLACE = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EROFS, errno.ENAMETOOLONG}


def cache_dir() -> Path:
    """Folder for generated corpora and feature stores: ``$MER_LAB_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("MER_LAB_CACHE")
    return Path(chosen).expanduser().resolve() if chosen else Path(platformdirs.user_cache_dir("mer_lab"))


def digest(*parts: bytes | str, length: int = 16) -> str:
    """First ``length`` hex digits of the SHA-256 of the parts; ("ab", "c") and ("a", "bc") differ."""
    h = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        h.update(len(data).to_bytes(8, "little") + data)
    return h.hexdigest()[:length]


@contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission while writing ``path`` into a :class:`MerLabError`."""
    try:
        yield
    except MerLabError:
        raise
    except Exception as error:  # the safetensors writer wraps OSError in a class of its own
        text = str(error).lower()
        number = getattr(error, "errno", None)
        if (
            number in _NO_SPACE
            or "no space left" in text
            or "file too large" in text
            or "storagefull" in text
        ):
            raise MerLabError(
                f"{path}: the disk is full; free some space and run the same command again, "
                "everything finished so far is kept."
            ) from error
        if isinstance(error, PermissionError) or "permission denied" in text:
            raise MerLabError(f"{path}: no permission to write here; choose another folder.") from error
        if number in _NO_PLACE:
            reason = os.strerror(number).lower()
            raise MerLabError(f"{path}: cannot be written ({reason}); choose another place.") from error
        raise


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it replaces ``path`` only if the block ends well.

    A reader sees the old file or the new one, never half of one, even after kill -9.

    Raises:
        MerLabError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("r+b") as f:  # Windows syncs only what is open for writing
                os.fsync(f.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a new folder beside ``path`` that takes its place only if the block ends well.

    Raises:
        MerLabError: the disk is full or the parent cannot be written.
    """
    path = Path(path)
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            yield temporary
            os.chmod(temporary, 0o777 & ~_umask())
            if not path.exists():
                os.replace(temporary, path)
                return
            if not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "a file stands there", str(path))
            old = temporary.with_suffix(".old")
            os.replace(path, old)
            try:
                os.replace(temporary, path)
            except BaseException:
                os.replace(old, path)
                raise
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Make ``path`` in one process at a time; the others wait, and then find it made.

    The lock is the system's, on a file beside ``path``: it falls with the process that holds it, even after
    kill -9.

    Raises:
        MerLabError: the folder cannot be written.
    """
    path = Path(path)
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically, with the same line ends on every system."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
