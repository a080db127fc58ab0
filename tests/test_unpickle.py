"""Reading pickles of plain data: what real unpickling gives for them, and nothing run for any other."""

import copyreg
import datetime
import fractions
import io
import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mer_lab.corpora.unpickle import load_plain
from mer_lab.errors import MerLabError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9)
)
DTYPES = (
    hnp.integer_dtypes()
    | hnp.floating_dtypes()
    | hnp.boolean_dtypes()
    | hnp.complex_number_dtypes()
    | hnp.unicode_string_dtypes(max_len=5)
    | hnp.byte_string_dtypes(max_len=5)
)
ARRAYS = DTYPES.flatmap(
    lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
VIEWS = ARRAYS | ARRAYS.map(np.asfortranarray) | ARRAYS.map(lambda a: a[..., ::2] if a.ndim else a[()])
NESTED = st.recursive(
    SCALARS | VIEWS,
    lambda x: (
        st.lists(x, max_size=4)
        | st.lists(x, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(), x, max_size=4)
    ),
    max_leaves=12,
)


def same(a, b):
    if isinstance(a, (np.ndarray, np.generic)):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(map(same, a.values(), b.values()))
    return type(a) is type(b) and repr(a) == repr(b)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("pickles") / "one.pkl"


@settings(max_examples=100, deadline=None)
@given(content=NESTED, protocol=st.integers(0, 5))
def test_as_real_unpickling(file, content, protocol):
    file.write_bytes(pickle.dumps(content, protocol))
    assert same(load_plain(file), pickle.loads(file.read_bytes()))


@pytest.mark.parametrize("protocol", range(6))
def test_shared_objects_stay_shared(file, protocol):
    array, words = np.arange(6.0).reshape(2, 3), ["a"]
    file.write_bytes(pickle.dumps([array, array, words, words], protocol))
    a, b, c, d = load_plain(file)
    assert a is b and c is d and np.array_equal(a, array)


def test_other_writers(file):
    """numpy 1's names for numpy 2's modules and back, and strings of Python 2."""
    for protocol in range(6):
        data = pickle.dumps([np.arange(3), np.float32(2)], protocol)
        for name in (b"numpy.core.", b"numpy._core."):
            text = data.replace(b"numpy._core.", b"numpy.core.")
            if name == b"numpy._core.":
                if protocol >= 4:  # names carry their length
                    continue
                text = text.replace(b"numpy.core.", name)
            elif protocol >= 4:
                text = data
            file.write_bytes(text)
            assert same(load_plain(file), [np.arange(3), np.float32(2)])
    python2 = (
        b"\x80\x02}q\x00U\x01aq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85q\x04"
        b"U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\tU\x02i2q\nK\x00K\x01\x87q\x0bRq\x0c"
        b"(K\x03U\x01<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U\x04\x01\x00\xff\xffq\x0ftq\x10bs."
    )
    file.write_bytes(python2)
    assert same(load_plain(file), {"a": np.array([1, -1], np.int16)})


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_objects(file, protocol):
    """What went through pandas: a list of plain items instead of bytes, in either order of a table."""
    flat = np.array(["a", "b\u00e9", None, 1.5, b"x", np.float32(2)], object)
    table = flat.reshape(2, 3)
    for one in (flat, table, np.asfortranarray(table), flat[::2], flat[:0]):
        file.write_bytes(pickle.dumps({"id": one}, protocol))
        got = load_plain(file)["id"]
        assert got.dtype == object and got.shape == one.shape and same(got.tolist(), one.tolist())


class Reduced:
    """Pickles as a call of anything."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


class Empty:
    pass


def opcodes(*parts):
    return b"\x80\x04" + b"".join(parts) + b"."


def text(x):
    return b"\x8c" + bytes([len(x)]) + x.encode()


def call(module, name, *arguments):
    """A call by opcodes; the arguments are opcodes."""
    return text(module) + text(name) + b"\x93(" + b"".join(arguments) + b"tR"


DTYPE_F8 = call("numpy", "dtype", text("f8"), b"\x89", b"\x88")
DTYPE_O = call("numpy", "dtype", text("O8"), b"\x89", b"\x88")
DTYPE_U0 = call("numpy", "dtype", text("U0"), b"\x89", b"\x88")
BLANK = call(
    "numpy.core.multiarray",
    "_reconstruct",
    text("numpy") + text("ndarray") + b"\x93",
    b"K\x00\x85",
    b"C\x01b",
)
HUGE = b"\x8a\x06" + (10**12).to_bytes(6, "little")  # LONG1


def objects(items):
    array = np.empty(len(items), object)
    array[:] = items
    return array


def malicious(marker):
    """Name → pickle and what the refusal must name. Real unpickling of most creates the marker."""
    touch = f"open({str(marker)!r}, 'w').close()"
    shell = f"touch {marker}"
    many = pickle.dumps({"a": [1, {"b": Reduced(os.system, (shell,))}]})
    kept = io.BytesIO()
    pickler = pickle.Pickler(kept, 2)
    pickler.persistent_id = lambda x: "id" if x == 5 else None
    pickler.dump([5])
    state = call("numpy", "dtype", text("V8"), b"\x89", b"\x88")
    setstate = BLANK + b"(K\x01K\x05\x85" + DTYPE_F8 + b"\x89C\x02xyt" + b"b"
    return {
        "system": (pickle.dumps(Reduced(os.system, (shell,))), "system"),
        "system, text protocol": (f"cos\nsystem\n(S'{shell}'\ntR.".encode(), "os.system"),
        "eval": (pickle.dumps(Reduced(eval, (touch,))), "builtins.eval"),
        "exec": (pickle.dumps(Reduced(exec, (touch,)), 2), "__builtin__.exec"),
        "nested deep in data": (many, "system"),
        "popen": (pickle.dumps(Reduced(subprocess.Popen, ((["touch", str(marker)],)))), "subprocess.Popen"),
        "getattr": (pickle.dumps(Reduced(getattr, ("a", "join"))), "getattr"),
        "dotted name": (opcodes(text("numpy"), text("testing.measure"), b"\x93"), "numpy.testing.measure"),
        "numpy runs code": (pickle.dumps(Reduced(np.load, (str(marker),))), "numpy"),
        "instance": (f"(S'{shell}'\nios\nsystem\n.".encode(), "os.system"),
        "old object": (f"(cos\nsystem\nS'{shell}'\no.".encode(), "os.system"),
        "new object": (pickle.dumps(Empty(), 2), "Empty"),
        "state of a list": (opcodes(b"]}", text("a"), b"K\x01sb"), "sets the state of a list"),
        "date": (pickle.dumps(datetime.date(2020, 1, 1)), "datetime.date"),
        "fraction": (pickle.dumps(fractions.Fraction(1, 3)), "fractions.Fraction"),
        "set": (pickle.dumps({1, 2}), "EMPTY_SET"),
        "bytearray": (pickle.dumps(bytearray(b"abc"), 5), "holds a bytearray"),
        "big bytearray": (pickle.dumps(Reduced(bytearray, (10**12,))), "builtins.bytearray"),
        "big bytes": (opcodes(call("builtins", "bytes", HUGE)), "calls builtins.bytes"),
        "big ndarray": (pickle.dumps(Reduced(np.ndarray, ((10**11,),))), "calls numpy.ndarray"),
        "big _reconstruct": (
            opcodes(
                call(
                    "numpy.core.multiarray",
                    "_reconstruct",
                    text("numpy") + text("ndarray") + b"\x93",
                    HUGE + b"\x85",
                    b"C\x01b",
                )
            ),
            "calls numpy.core.multiarray._reconstruct",
        ),
        "big shape": (
            opcodes(BLANK, b"(K\x01", HUGE, b"\x85", DTYPE_F8, b"\x89C\x08xxxxxxxxtb"),
            "8000000000000 bytes",
        ),
        "big text": (opcodes(call("numpy", "dtype", text("U2000000000"), b"\x89", b"\x88")), "U2000000000"),
        "negative shape": (
            opcodes(BLANK, b"(K\x01J\xff\xff\xff\xff\x85", DTYPE_F8, b"\x89C\x00tb"),
            "of a size that cannot be",
        ),
        "strings without a length": (
            opcodes(BLANK, b"(K\x01", HUGE, b"\x85", DTYPE_U0, b"\x89C\x00tb"),
            "1000000000000 strings without a length",
        ),
        "big frombuffer": (
            opcodes(
                call(
                    "numpy.core.numeric", "_frombuffer", b"C\x08xxxxxxxx", DTYPE_F8, HUGE + b"\x85", text("C")
                )
            ),
            "8000000000000 bytes",
        ),
        "short state": (opcodes(setstate), "40 bytes, of which 2"),
        "objects": (pickle.dumps(np.array([Empty(), None]), 2), "Empty"),
        "array in an array": (pickle.dumps(objects([np.arange(2), 1]), 2), "objects with a ndarray in it"),
        "list in an array": (pickle.dumps(objects([[1], 1]), 2), "objects with a list in it"),
        "short objects": (opcodes(BLANK, b"(K\x01K\x05\x85", DTYPE_O, b"\x89]Natb"), "5 objects, of which 1"),
        "name in an array": (
            opcodes(BLANK, b"(K\x01K\x01\x85", DTYPE_O, b"\x89]", text("numpy"), text("ndarray"), b"\x93atb"),
            "objects with a Name in it",
        ),
        "bytes as objects": (
            opcodes(
                call("numpy.core.numeric", "_frombuffer", b"C\x08xxxxxxxx", DTYPE_O, b"K\x01\x85", text("C"))
            ),
            "without its bytes",
        ),
        "object scalar": (
            opcodes(
                call(
                    "numpy.core.multiarray",
                    "scalar",
                    call("numpy", "dtype", text("O8"), b"\x89", b"\x88"),
                    b"N",
                )
            ),
            "without its bytes",
        ),
        "structured": (pickle.dumps(np.zeros(2, "i4,f4")), "'V8', not of numbers"),
        "fields": (opcodes(state), "'V8', not of numbers"),
        "type with fields": (
            opcodes(DTYPE_F8, b"(K\x03", text("<"), b"N", b"(", text("x"), b"t}K\x08K\x01K\x00tb"),
            "sets the state of a",
        ),
        "record array": (pickle.dumps(np.zeros(2, "i4").view(np.recarray), 2), "numpy"),
        "codec": (opcodes(call("_codecs", "encode", text("a"), text("rot13"))), "calls _codecs.encode"),
        "bare name": (opcodes(b"(", text("numpy"), text("ndarray"), b"\x93l"), "holds a Name"),
        "bare type": (pickle.dumps([np.dtype("f8")]), "holds a DType"),
        "persistent id": (kept.getvalue(), "PERSID"),
        "extension": (opcodes(b"\x82\x01"), "EXT1"),
        "out-of-band buffer": (opcodes(b"\x97"), "NEXT_BUFFER"),
        "tuple as a key": (pickle.dumps({(1, 2): 3}), "tuple as a key"),
        "tuple bomb as a key": (opcodes(b"}", b")", b"2\x86" * 60, b"Ns"), "tuple as a key"),
    }


def names():
    return list(malicious("x"))


@pytest.mark.parametrize("name", names())
def test_malicious(tmp_path, name):
    marker = tmp_path / "marker"
    data, message = malicious(marker)[name]
    path = tmp_path / "a.pkl"
    path.write_bytes(data)
    with pytest.raises(MerLabError, match="only plain data") as refused:
        load_plain(path)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not marker.exists()


def test_the_markers_would_appear(tmp_path):
    marker = tmp_path / "marker"
    for name in ("system", "eval", "exec", "nested deep in data", "instance", "old object"):
        pickle.loads(malicious(marker)[name][0])
        assert marker.exists(), name
        marker.unlink()


def test_extension_registry_is_not_asked(tmp_path):
    copyreg.add_extension("os", "system", 77)
    try:
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(os.system, 2).replace(b"cposix\nsystem\n", b"\x82\x4d"))
        with pytest.raises(MerLabError, match="EXT1"):
            load_plain(tmp_path / "a.pkl")
    finally:
        copyreg.remove_extension("os", "system", 77)


DOUBLED = b")" + b"2\x86" * 60  # () in pairs of itself: 2**60 of them for whoever spells it out
DEEP = b")" + b"\x85" * 30_000


@pytest.mark.parametrize("nest", [DOUBLED, DEEP], ids=["doubled", "deep"])
def test_no_message_spells_a_nest_out(tmp_path, nest):
    path = tmp_path / "a.pkl"
    for data, told in (
        (nest + b")R", "calls a tuple"),
        (text("numpy") + nest + b"\x93", "tuple where a str must be"),
        (nest + text("dtype") + b"\x93", "tuple where a str must be"),
        (call("numpy", "dtype", nest, b"\x89", b"\x88"), "an array of a tuple"),
        (nest + b"}b", "the state of a tuple"),
        (b"]" + nest + b"b", "the state of a list"),
        (b"}" + nest + b"Ns", "tuple as a key"),
        (BLANK + b"(K\x01" + nest + DTYPE_F8 + b"\x89C\x00tb", "of a size that cannot be"),
        (BLANK + b"(K\x01K\x01\x85" + DTYPE_O + b"\x89]" + nest + b"atb", "with a tuple in it"),
    ):
        path.write_bytes(opcodes(data))
        with pytest.raises(MerLabError) as refused:
            load_plain(path)
        assert told in str(refused.value) and len(str(refused.value)) < 500


WHOLE = pickle.dumps({"a": np.arange(40.0), "b": [1, "two", b"three"] * 3, "c": objects(["x", None, 2])})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a pickle at all",
        b"PK\x03\x04" + b"\0" * 40,
        b"\x80\x63N.",
        b"\x80\x04",
        b".",
        b"0.",
        b"R.",
        b"b.",
        b"]a.",
        b"(.",
        b"h\x05.",
        b"g99999999\n.",
        b"(K\x01d.",
        b"\x85.",
        b"I12x\n.",
        b"e.",
        b"t.",
        b"\x94.",
        b"Na.",
        b"\x8a\xff\x01.",
        b"\x8e" + struct.pack("<Q", 2**62) + b"x.",
        b"\x96" + struct.pack("<Q", 10**12) + b"x.",
        b"T\xff\xff\xff\xffx.",
        b"F1e\n.",
        b"V\\uZZZZ\n.",
        b"\x8c\x01\xff.",
        b"L" + b"9" * 9999 + b"L\n.",
        b"K\x01K\x02\x93.",
        b"cnumpy\n.",
    ],
)
def test_damaged(tmp_path, data):
    path = tmp_path / "a.pkl"
    path.write_bytes(data)
    with pytest.raises(MerLabError, match=r"a\.pkl: (not a whole pickle|the pickle )") as refused:
        load_plain(path)
    assert "\n" not in str(refused.value)


def test_cut_off_anywhere(tmp_path):
    path = tmp_path / "a.pkl"
    for k in range(0, len(WHOLE) - 1, 9):
        path.write_bytes(WHOLE[:k])
        with pytest.raises(MerLabError):
            load_plain(path)
    with pytest.raises(MerLabError, match="no such file"):
        load_plain(tmp_path / "nothing.pkl")
    with pytest.raises(MerLabError, match="cannot be read"):
        load_plain(tmp_path)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255), more=st.binary(max_size=3))
def test_any_changed_byte_is_data_or_refused(file, place, byte, more):
    file.write_bytes(WHOLE[:place] + bytes([byte]) + more + WHOLE[place + 1 :])
    try:
        load_plain(file)
    except MerLabError as error:
        assert "\n" not in str(error)


def test_bombs_stay_small(tmp_path):
    """A deep nest, doubled tuples, a huge memo index: a process with 1 GiB of memory reads or refuses."""
    deep = b"\x80\x04" + b"]" * 300_000 + b"a" * 299_999 + b"."
    doubled = b"\x80\x04)" + b"2\x86" * 200 + b"."
    memo = b"\x80\x02]r\xff\xff\xff\xff0h\x00."
    deep_tuples = b"\x80\x04)" + b"\x85" * 300_000 + b"."
    array = opcodes(BLANK, b"(K\x01", HUGE, b"\x85", DTYPE_F8, b"\x89C\x08xxxxxxxxtb")
    for k, data in enumerate((deep, doubled, memo, deep_tuples, array)):
        (tmp_path / f"{k}.pkl").write_bytes(data)
    code = (
        "import resource, sys\n"
        "from mer_lab.corpora.unpickle import load_plain\n"
        "from mer_lab.errors import MerLabError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        load_plain(path)\n"
        "        print('read')\n"
        "    except MerLabError:\n"
        "        print('refused')\n"
    )
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc")
    paths = [str(tmp_path / f"{k}.pkl") for k in range(5)]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["read", "read", "refused", "read", "refused"], done.stderr[-500:]
