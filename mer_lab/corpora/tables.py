"""Readers of feature tables: CSV, Parquet, npz and safetensors behind one small interface.

The files are somebody else's. Nothing is unpickled, and sizes are checked before anything is decompressed:
an array may not exceed ``MAX_ARRAY`` bytes, all arrays of a file ``MAX_TOTAL`` bytes.
"""

from __future__ import annotations

import csv
import math
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mer_lab.errors import MerLabError

MAX_ARRAY = 2**30
MAX_TOTAL = 64 * 2**30
_MISSING = {"", "nan", "na", "n/a", "null", "none"}


@dataclass(frozen=True)
class Table:
    """Feature frames by key.

    Attributes:
        path: the file.
        keys: one a row or array, unique.
        lengths: frames of each.
        columns: names of the ``D`` numbers of a frame.
        read: number of a key → its frames ``(T, D)``.
        place: number of a key → where it stands, for messages.
    """

    path: Path
    keys: list[str]
    lengths: list[int]
    columns: list[str]
    read: Callable[[int], np.ndarray]
    place: Callable[[int], str]


def read_table(path: Path, key: str = "utterance_id", drop: set[str] | frozenset[str] = frozenset()) -> Table:
    """Open a feature table by its ending: .csv, .parquet, .npz or .safetensors.

    Args:
        path: the file.
        key: the key column of a CSV or Parquet file; arrays are keyed by their names.
        drop: columns of a CSV or Parquet file to leave out.

    Raises:
        MerLabError: what is wrong, and where.
    """
    readers = {
        ".csv": _read_csv,
        ".parquet": _read_parquet,
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise MerLabError(f"{path}: expected a file ending in {', '.join(readers)}.")
    if not path.is_file():
        raise MerLabError(f"{path}: there is no such file.")
    if reader in (_read_npz, _read_safetensors):
        if drop:
            raise MerLabError(f"{path}: columns can be dropped from CSV and Parquet tables only.")
        table = reader(path)
    else:
        table = reader(path, key, drop)
    if not table.keys:
        raise MerLabError(f"{path}: has no rows.")
    return table


def _columns(path: Path, header: list[str], key: str, drop: set[str]) -> list[str]:
    """The feature columns of a table with a key column."""
    if len(set(header)) != len(header):
        twice = next(c for c in header if header.count(c) > 1)
        raise MerLabError(f"{path}: the column {twice!r} stands twice.")
    if key not in header:
        raise MerLabError(f"{path}: has no key column {key!r}; its columns are {', '.join(header[:12])}.")
    if unknown := sorted(drop - set(header)):
        raise MerLabError(
            f"{path}: has no column {unknown[0]!r} to drop; its columns are {', '.join(header[:12])}."
        )
    columns = [c for c in header if c != key and c not in drop]
    if not columns:
        raise MerLabError(f"{path}: has no feature columns beside the key {key!r}.")
    return columns


def _dense(path: Path, keys: list[str], columns: list[str], values: np.ndarray, lines: list[int]) -> Table:
    """A table of one row an utterance, ``values`` float32 (rows, D)."""
    first: dict[str, int] = {}
    for k, name in enumerate(keys):
        if name in first:
            where = f"{path}, line {lines[k]}"
            raise MerLabError(
                f"{where}: the key {name!r} stands already on line {lines[first[name]]}; keep one."
            )
        first[name] = k
    return Table(
        path,
        keys,
        [1] * len(keys),
        columns,
        lambda k: values[k : k + 1],
        lambda k: f"{path}, line {lines[k]}",
    )


def _read_csv(path: Path, key: str, drop: set[str]) -> Table:
    # Row by row to float32: the rows as Python strings would take twenty times the memory of the numbers.
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as f:
            for line, text in enumerate(f, 1):
                if "\0" in text:
                    raise MerLabError(f"{path}, line {line}: contains a NUL byte; this is not a CSV file.")
            f.seek(0)
            line = 0
            reader = csv.reader(f, strict=True)
            header = [c.strip() for c in next(reader, [])]
            if not header:
                raise MerLabError(f"{path}: is empty; the first line must name the columns.")
            columns = _columns(path, header, key, drop)
            at_key, at = header.index(key), [header.index(c) for c in columns]
            keys, lines, values = [], [], []
            for row in reader:
                line = reader.line_num
                if not row:
                    continue
                if len(row) != len(header):
                    raise MerLabError(
                        f"{path}, line {line}: {len(row)} values where the header names {len(header)}."
                    )
                keys.append(row[at_key].strip())
                lines.append(line)
                numbers = [_number(path, line, c, row[i]) for c, i in zip(columns, at, strict=True)]
                with np.errstate(over="ignore"):
                    values.append(np.array(numbers).astype(np.float32))
    except UnicodeDecodeError:
        raise MerLabError(
            f"{path}, near line {_bad_line(path)}: a byte is not UTF-8; save the file with UTF-8 encoding."
        ) from None
    except csv.Error as error:
        raise MerLabError(f"{path}, line {line + 1}: not valid CSV ({error}).") from None
    return _dense(path, keys, columns, np.array(values, np.float32), lines)


def _bad_line(path: Path) -> int:
    with path.open("rb") as f:
        for line, data in enumerate(f, 1):
            try:
                data.decode("utf-8")
            except UnicodeDecodeError:
                return line
    return 1


def _number(path: Path, line: int, column: str, value: str) -> float:
    value = value.strip()
    if value.lower() in _MISSING:
        return math.nan
    try:
        return float(value)
    except ValueError:
        raise MerLabError(
            f"{path}, line {line}: {column} is {value!r}, not a number; drop the column or mend the value."
        ) from None


def _read_parquet(path: Path, key: str, drop: set[str]) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        columns = _columns(path, list(schema.names), key, drop)
        for column in columns:
            kind = schema.field(column).type
            if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
                raise MerLabError(f"{path}: the column {column!r} holds {kind}, not numbers; drop it.")
        if 4 * file.metadata.num_rows * len(columns) > MAX_TOTAL:
            raise MerLabError(
                f"{path}: claims {file.metadata.num_rows} rows, more than {_size(MAX_TOTAL)} of numbers."
            )
        keys: list[str] = []
        parts = [np.empty((0, len(columns)), np.float32)]
        for batch in file.iter_batches(columns=[key, *columns]):
            keys += ["" if x is None else str(x) for x in batch.column(key).to_pylist()]
            numbers = [batch.column(c).to_numpy(zero_copy_only=False).astype(np.float64) for c in columns]
            with np.errstate(over="ignore"):
                parts.append(np.stack(numbers, 1).astype(np.float32))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MerLabError(f"{path}: not a readable Parquet file ({_first_line(error)}).") from None
    return _dense(path, keys, columns, np.concatenate(parts), list(range(1, len(keys) + 1)))


def _ragged(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    itemsizes: dict[str, int],
    read: Callable[[str], np.ndarray],
) -> Table:
    """A table of one array a key; checks shapes and sizes before anything is read."""
    total, width = 0, None
    for name, shape in shapes.items():
        if len(shape) not in (1, 2):
            raise MerLabError(f"{path}: the array {name!r} has shape {shape}, expected (T, D) or (D,).")
        size = math.prod(shape) * max(4, itemsizes[name])
        total += size
        if size > MAX_ARRAY or total > MAX_TOTAL:
            limit = f"{_size(MAX_ARRAY)} an array, {_size(MAX_TOTAL)} a file"
            raise MerLabError(f"{path}: the array {name!r} of shape {shape} goes over the limit ({limit}).")
        if width is None:
            width, first = shape[-1], name
        if shape[-1] != width or not width:
            raise MerLabError(
                f"{path}: the array {name!r} has {shape[-1]} numbers a frame, {first!r} has {width}."
            )
    keys = list(shapes)
    lengths = [shapes[k][0] if len(shapes[k]) == 2 else 1 for k in keys]

    def frames(k: int) -> np.ndarray:
        return read(keys[k]).reshape(lengths[k], width)

    columns = [f"{i}" for i in range(width or 0)]
    return Table(path, keys, lengths, columns, frames, lambda k: f"{path}, array {keys[k]!r}")


def _read_npz(path: Path) -> Table:
    shapes: dict[str, tuple[int, ...]] = {}
    itemsizes: dict[str, int] = {}
    damaged = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError)
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name in shapes or name == info.filename:
                    raise MerLabError(f"{path}: {info.filename!r} is not an array with a name of its own.")
                with archive.open(info) as f:
                    version = np.lib.format.read_magic(f)
                    form = np.lib.format
                    head = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
                    shape, _, dtype = head(f)
                    start = f.tell()
                if dtype.hasobject:
                    raise MerLabError(
                        f"{path}: the array {name!r} holds Python objects, which only a pickle can store, "
                        "and a pickle can run code; save each utterance's numbers as an array of its own."
                    )
                if dtype.kind not in "fiub":
                    raise MerLabError(f"{path}: the array {name!r} holds {dtype}, not real numbers.")
                if math.prod(shape) * dtype.itemsize != info.file_size - start:
                    raise MerLabError(f"{path}: the array {name!r} is not as long as its shape {shape} says.")
                shapes[name], itemsizes[name] = shape, dtype.itemsize
    except damaged as error:
        raise MerLabError(f"{path}: not a readable npz file ({_first_line(error)}).") from None
    arrays = np.load(path, allow_pickle=False)

    def read(name: str) -> np.ndarray:
        try:
            return arrays[name]
        except damaged as error:
            raise MerLabError(f"{path}: the array {name!r} is damaged ({_first_line(error)}).") from None

    return _ragged(path, shapes, itemsizes, read)


def _read_safetensors(path: Path) -> Table:
    from safetensors import SafetensorError, safe_open

    sizes = {"F64": 8, "F32": 4, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
    shapes: dict[str, tuple[int, ...]] = {}
    itemsizes: dict[str, int] = {}
    try:
        file = safe_open(path, framework="np")
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            view = file.get_slice(name)
            if view.get_dtype() not in sizes:
                raise MerLabError(f"{path}: the array {name!r} holds {view.get_dtype()}; save it as float32.")
            shapes[name], itemsizes[name] = tuple(view.get_shape()), sizes[view.get_dtype()]
    except (SafetensorError, OSError) as error:
        raise MerLabError(f"{path}: not a readable safetensors file ({_first_line(error)}).") from None
    return _ragged(path, shapes, itemsizes, file.get_tensor)


def _size(n: int) -> str:
    return f"{n / 2**30:g} GiB" if n >= 2**30 else f"{n} bytes"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
