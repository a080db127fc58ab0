"""Read a pickle of plain data without unpickling it.

Python's unpickler runs what a pickle asks for, and one that only filters the names still calls them with a
stranger's arguments. So this is no unpickler: :mod:`pickletools` takes the file apart, and a small machine
rebuilds what data need. A global is only ever a name to it, a call is only known for the names that numpy
arrays need, and an array is as large as the bytes that the file holds for it.
"""

from __future__ import annotations

import math
import mmap
import pickle
import pickletools
import re
import struct
from pathlib import Path

import numpy as np

from mer_lab.errors import MerLabError

_SCALAR = {"int", "int_or_bool", "float", "str", "bytes", "bytes_or_str", "bytearray"}
_PUSH = {
    c.name for c in pickletools.opcodes if c.arg and [x.name in _SCALAR for x in c.stack_after] == [True]
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_PLAIN = (str, bytes, bool, int, float, type(None))
_CORE = ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
_NAMES = {
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
    "builtins.bytes",
    *(f"numpy.core.{n}" for n in _CORE),
}


class _Refused(Exception):
    """What the pickle wants, in words that follow "the pickle"."""


class _Name(str):
    """A global, by its name."""


class _DType:
    """A numpy type: a pickle makes it first and gives it its byte order later."""

    def __init__(self, code: object) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[biufc][0-9]{1,2}|[SU][0-9]{1,9}|O[48]?", code):
            told = repr(str(code[:40])) if isinstance(code, str) else f"a {type(code).__name__}"
            raise _Refused(f"holds an array of {told}, not of numbers or strings")
        self.value = np.dtype("O" if code[0] == "O" else code)


def load_plain(path: str | Path) -> object:
    """Read a pickle of dict, list, tuple, str, bytes, int, float, bool, None and numpy arrays and scalars.

    Any protocol, numpy 1 or 2, also Python 2 (its strings are read as Latin-1). Arrays hold numbers or
    strings and may be read-only; an array of objects holds scalars; the keys of a dict are scalars.

    Raises:
        MerLabError: it asks for anything else; it is missing, cut off or no pickle.
    """
    path = Path(path)
    damaged = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, struct.error,
               RecursionError)  # fmt: skip
    try:
        with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            result = _run(data)
        _check(result)
        return result
    except FileNotFoundError:
        raise MerLabError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise MerLabError(f"{path}: cannot be read ({error.strerror}).") from None
    except _Refused as error:
        raise MerLabError(
            f"{path}: the pickle {error}; only plain data and numpy arrays are read, because any other "
            "pickle can run code on your machine; get the file from its publisher again."
        ) from None
    except damaged as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise MerLabError(f"{path}: not a whole pickle ({reason}); copy it again from its source.") from None


def _run(data: mmap.mmap) -> object:
    stack: list = []
    below: list[list] = []  # the stacks under each mark
    memo: dict[int, object] = {}
    for opcode, arg, place in pickletools.genops(data):
        items: list = []
        if opcode.stack_before and opcode.stack_before[-1].name == "stackslice":
            items, stack = stack, below.pop()
        match opcode.name:
            case "PROTO" if arg > pickle.HIGHEST_PROTOCOL:
                raise ValueError(f"it says that it is of protocol {arg}")
            case "PROTO" | "FRAME" | "POP_MARK":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                below.append(stack)
                stack = []
            case "POP" if stack:
                stack.pop()
            case "POP":
                stack = below.pop()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case name if name in _PUSH:
                stack.append(arg)
            case "NONE" | "NEWTRUE" | "NEWFALSE" as name:
                stack.append(_CONSTANTS[name])
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_TUPLE" as name:
                stack.append(_EMPTY[name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                items = [stack.pop() for _ in range(int(name[-1]))]
                stack.append(tuple(items[::-1]))
            case "TUPLE":
                stack.append(tuple(items))
            case "LIST":
                stack.append(items)
            case "DICT":
                stack.append(_pairs(items))
            case "APPEND":
                _as(list, stack[-2]).append(stack.pop())
            case "APPENDS":
                _as(list, stack[-1]).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _as(dict, stack[-1]).update(_pairs([key, value]))
            case "SETITEMS":
                _as(dict, stack[-1]).update(_pairs(items))
            case "GLOBAL":
                stack.append(_name(*arg.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_name(module, name))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, *_as(tuple, arguments)))
            case "BUILD":
                state = stack.pop()
                _build(stack[-1], state)
            case name:
                wanted = f" {arg.replace(' ', '.')}" if name == "INST" else ""
                raise _Refused(f"uses {name}{wanted} (byte {place}), which plain data do not need")
    raise ValueError("it has no end")


def _as(kind: type, value: object) -> object:
    if type(value) is not kind:
        raise ValueError(f"{type(value).__name__} where a {kind.__name__} must be")
    return value


def _pairs(items: list) -> dict:
    if bad := [k for k in items[::2] if type(k) not in _PLAIN]:  # hashing a deep tuple has no bounds
        raise _Refused(f"has a {type(bad[0]).__name__} as a key")
    return dict(zip(items[::2], items[1::2], strict=True))


def _name(module: object, name: object) -> _Name:
    module, name = _as(str, module), _as(str, name)  # the text of a doubled tuple has no bounds
    full = f"{module}.{name}".replace("numpy._core.", "numpy.core.").replace("__builtin__.", "builtins.")
    if full not in _NAMES:
        raise _Refused(f"wants to use {f'{module}.{name}'[:80]}")
    return _Name(full)


def _call(function: object, *arguments: object) -> object:
    match function, *arguments:
        case "numpy.core.multiarray._reconstruct", _Name("numpy.ndarray"), (0,), _:
            return np.empty(0)  # to be filled by its state
        case "numpy.dtype", code, 0, 1:
            return _DType(code)
        case "numpy.core.multiarray.scalar", _DType() as dtype, value:
            return _array(value, dtype, (1,))[0]
        case "numpy.core.numeric._frombuffer", value, _DType() as dtype, shape, ("C" | "F") as order:
            return _array(value, dtype, shape, order)
        case "_codecs.encode", str() as text, "latin1":  # how protocols 0 to 2 hold bytes
            return text.encode("latin1")
        case ("builtins.bytes",):
            return b""
    told = str(function) if isinstance(function, _Name) else f"a {type(function).__name__}"
    raise _Refused(f"calls {told} with arguments that plain data do not need")


def _build(target: object, state: object) -> None:
    match target, state:
        case _DType(), (3, "<" | ">" | "|" as order, None, None, None, int(), int(), int()):
            target.value = target.value.newbyteorder(order)
        case np.ndarray(), (1, shape, _DType() as dtype, 0 | 1 as fortran, value):
            content = _items(value, shape) if dtype.value.hasobject else _raw(value, dtype, shape)
            target.__setstate__((1, shape, dtype.value, bool(fortran), content))
        case _:
            raise _Refused(f"sets the state of a {type(target).__name__} as plain data do not")


def _count(shape: object) -> int:
    if not all(type(n) is int and n >= 0 for n in _as(tuple, shape)):
        raise _Refused("holds an array of a size that cannot be")
    return math.prod(shape)


def _items(value: object, shape: object) -> list:
    """The items of an array of objects: numpy keeps them as a list, and reads past the end of a short one."""
    if len(_as(list, value)) != _count(shape):
        raise _Refused(f"holds an array of {_count(shape)} objects, of which {len(value)} are there")
    if bad := [x for x in value if type(x) not in _PLAIN and not isinstance(x, np.generic)]:
        raise _Refused(f"holds an array of objects with a {type(bad[0]).__name__.strip('_')} in it")
    return value


def _raw(value: object, dtype: _DType, shape: object) -> bytes:
    """The bytes of an array, exactly as many as it needs: no shape can claim more than the file holds."""
    value = value.encode("latin1") if isinstance(value, str) else value
    if dtype.value.hasobject or not isinstance(value, (bytes, bytearray)):
        raise _Refused("holds an array without its bytes")
    size = _count(shape) * dtype.value.itemsize
    if _count(shape) > 1 and not dtype.value.itemsize:  # one is a scalar "", many get room for a character
        raise _Refused(f"holds an array of {_count(shape)} strings without a length")
    if size != len(value):
        raise _Refused(f"holds an array of {size} bytes, of which {len(value)} are there")
    return bytes(value)


def _array(value: object, dtype: _DType, shape: object, order: str = "C") -> np.ndarray:
    raw = _raw(value, dtype, shape)
    if not raw:
        return np.zeros(shape, dtype.value, order)
    return np.frombuffer(raw, dtype.value).reshape(shape, order=order)


def _check(result: object) -> None:
    """Refuse names and types that are left in the result."""
    pending, seen = [result], set()
    while pending:
        item = pending.pop()
        if type(item) in _PLAIN or isinstance(item, (np.generic, np.ndarray)) or id(item) in seen:
            continue
        if type(item) not in (dict, list, tuple):
            raise _Refused(f"holds a {type(item).__name__.strip('_')} as a value")
        seen.add(id(item))
        pending.extend(item.values() if type(item) is dict else item)
