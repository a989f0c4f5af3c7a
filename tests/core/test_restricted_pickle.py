"""Reading pickles from strangers: plain data comes through, everything else is refused and nothing is run."""

from __future__ import annotations

import collections
import copyreg
import datetime
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrjax.core import restricted_pickle
from ehrjax.core.errors import InputError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def load(data: bytes, folder: Path) -> object:
    path = folder / "x.pkl"
    path.write_bytes(data)
    return restricted_pickle.load(path)


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.shape == b.shape and bool(np.array_equal(a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


PLAIN = [
    {"subject_id": 1, "tokens": [1, 2, 2**70], "timestamps": (0.5, -1e300), "label": None, "flags": {True, False}},
    collections.OrderedDict(a=1, b=frozenset([b"x"])),
    [datetime.datetime(2020, 1, 2, 3), datetime.date(1, 1, 1), datetime.timedelta(days=2), datetime.time(3, 4)],
    datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
    [np.float32(1.5), np.int64(-3), np.bool_(True), np.datetime64("2020-01-01", "D"), np.str_("ab")],
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.array(["a", "longer"]),
    np.array([b"a", b"bc"]),
    np.array(["2020-01-01", "NaT"], "M8[us]")[:1],
    np.array([3, 4], "m8[h]"),
    np.zeros((0, 3), np.int32),
    np.array([True, False]),
    np.arange(3, dtype=">i2"),
    b"",
    "\u00e9\U0001f600",
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_comes_through(protocol, tmp_path):
    for value in PLAIN:
        assert same(value, load(pickle.dumps(value, protocol), tmp_path)), value


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner), max_leaves=20
)


@given(value=TREES, protocol=st.sampled_from(list(PROTOCOLS)))
@settings(max_examples=100, deadline=None)
def test_any_tree_of_plain_values_comes_through(value, protocol, tmp_path_factory):
    assert same(value, load(pickle.dumps(value, protocol), tmp_path_factory.mktemp("x")))


class Calls:
    """Pickled, it asks the reader to call a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "function", [os.system, eval, exec, __import__, open, getattr, pickle.loads, np.load, np.fromfile]
)
def test_a_call_is_refused_and_not_run(function, protocol, tmp_path):
    mark = tmp_path / "was_run"
    arguments = {
        os.system: (f"touch {mark}",),
        eval: (f"open({str(mark)!r}, 'w')",),
        exec: (f"open({str(mark)!r}, 'w')",),
        open: (str(mark), "w"),
    }.get(function, ("os",))
    data = pickle.dumps([{"subject_id": 1, "tokens": Calls(function, *arguments)}], protocol)
    with pytest.raises(InputError, match="is refused: its pickle names") as caught:
        load(data, tmp_path)
    assert function.__name__ in str(caught.value) and "x.pkl" in str(caught.value)
    assert not mark.exists()


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def stack_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


START = b"\x80\x04"
RUN = text("touch was_run") + b"\x85"
REFUSED = {
    "global": START + b"cos\nsystem\n" + RUN + b"R.",
    "global of a dotted name": START + b"cdatetime\ndatetime.__class__\n.",
    "stack global": START + stack_global("posix", "system") + RUN + b"R.",
    "stack global of a dotted name": START + stack_global("numpy", "ndarray.tofile") + b".",
    "a global that is only named": START + stack_global("os", "system") + b".",
    "builtins through another name": START + stack_global("__builtin__", "eval") + b".",
    "an allowed name of another module": START + stack_global("os", "dtype") + b".",
    "inst": b"(S'touch was_run'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'touch was_run'\no.",
    "newobj": START + stack_global("subprocess", "Popen") + RUN + b"\x81.",
    "newobj_ex": START + stack_global("subprocess", "Popen") + b")}\x92.",
    "copyreg": START + stack_global("copyreg", "_reconstructor") + b".",
    "partial": START + stack_global("functools", "partial") + b".",
    "import": START + stack_global("importlib", "import_module") + b".",
    "persistent id": b"Pos.system\n.",
    "binary persistent id": START + text("os.system") + b"Q.",
    "numpy objects": pickle.dumps(np.array([None, {}], dtype=object)),
    "numpy record": pickle.dumps(np.zeros(2, [("a", "O"), ("b", "f8")])),
    "numpy plain record": pickle.dumps(np.zeros(2, [("a", "i4")])),
    "numpy subdtype": START + stack_global("numpy", "dtype") + text("(2,)i4") + b"\x89\x88\x87R.",
    "numpy void": START + stack_global("numpy", "dtype") + text("V8") + b"\x89\x88\x87R.",
    "numpy dtype by a long text": START + stack_global("numpy", "dtype") + text("i4," * 9) + b"\x85R.",
    "numpy masked array": pickle.dumps(np.ma.array([1.0])),
    "bytes of a number": START + stack_global("builtins", "bytes") + b"J" + struct.pack("<i", 2**30) + b"\x85R.",
    "encode": START + stack_global("_codecs", "encode") + text("ab") + text("rot13") + b"\x86R.",
}


@pytest.mark.parametrize("name", REFUSED)
def test_every_way_to_name_something_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is refused: its pickle names"):
        load(REFUSED[name], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pkl"]


def dtype(code: str, *state: object) -> bytes:
    """The opcodes that build a dtype, with a state of its own."""
    made = stack_global("numpy", "dtype") + text(code) + b"\x89\x88\x87R"
    return made + _body(state) + b"b" if state else made


def _body(value: object) -> bytes:
    """The opcodes of a plain value, without the frame around it."""
    return pickle.dumps(value, 2)[2:-1]


def array(shape: tuple, dtype_opcodes: bytes, data: object) -> bytes:
    """The opcodes that build an array from a state of one's own choice."""
    reconstruct = stack_global("numpy._core.multiarray", "_reconstruct") + stack_global("numpy", "ndarray")
    made = reconstruct + _body((0,)) + _body("b") + b"\x87R"
    return START + made + b"(K\x01" + _body(shape) + dtype_opcodes + b"\x89" + _body(data) + b"tb."


FORGED = {
    "a memory of gigabytes": START + b"Nr\xff\xff\xff\xff.",
    "a memory of gigabytes behind other opcodes": pickle.dumps(["x" * 300, 1.5, b"y", 2**90])[:-1]
    + b"r\xff\xff\xff\xff.",
    "a memory of gigabytes by text": b"Np4000000000\n.",
    "a memory without an end": b"Np" + b"9" * 100 + b"\n.",
    "a memory before the beginning": b"Np-5\n.",
    "objects as bytes": array((1,), dtype("O8"), "x" * 8),
    "a list as data": array((1,), dtype("i8", 3, "<", None, None, None, -1, -1, 0), [1]),
    "too little data": array((10**9,), dtype("i8"), ""),
    "a negative shape": array((-1, -1), dtype("i8"), ""),
    "elements without a size": array((10**15,), dtype("S0"), ""),
    "fields by state": array((1,), dtype("i8", 3, "<", None, ("a",), {"a": 1}, -1, -1, 0), ""),
    "flags with a subdtype": array((1,), dtype("i8", 3, "<", ("O", (1,)), None, None, -1, -1, 63), ""),
    "a foreign dtype state": array((1,), dtype("i8", 1, 2), ""),
    "a foreign array state": START
    + stack_global("numpy._core.multiarray", "_reconstruct")
    + stack_global("numpy", "ndarray")
    + _body((0,))
    + _body("b")
    + b"\x87R"
    + _body((1, 2))
    + b"b.",
    "attributes of an allowed function": START
    + stack_global("numpy", "dtype")
    + _body((None, {"__call__": 1}))
    + b"b.",
    "a dictionary for an allowed function": START + stack_global("numpy", "dtype") + _body({"x": 1}) + b"b.",
    "attributes of an allowed class": START + stack_global("datetime", "datetime") + _body((None, {"now": 1})) + b"b.",
    "a buffer outside the file": b"\x80\x05\x97.",
    "an unknown extension": START + b"\x82\xf0.",
    "no opcode": b"\xff\xff\xff",
    "nothing": b"",
    "text": b"subject_id,tokens\n1,2\n",
    "an empty stack": START + b".",
    "a memo that is not there": START + b"h\x05.",
    "a text too long for the file": START + b"\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "something behind it": pickle.dumps([1]) + b"x",
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_pickles_are_refused_with_one_sentence(name, tmp_path):
    with pytest.raises(InputError) as caught:
        load(FORGED[name], tmp_path)
    assert "x.pkl" in str(caught.value) and "\n" not in str(caught.value)
    assert same(np.arange(3), load(pickle.dumps(np.arange(3)), tmp_path)), "the next file is read as ever"


def test_an_honest_state_of_the_forged_kind_is_read(tmp_path):
    data = array((2,), dtype("i8", 3, "<", None, None, None, -1, -1, 0), "").replace(
        _body(""), b"\x8e" + struct.pack("<Q", 16) + struct.pack("<qq", 5, 6)
    )
    assert load(data, tmp_path).tolist() == [5, 6]


@pytest.mark.parametrize(
    "opcode", [b"\x82" + bytes([201]), b"\x83" + struct.pack("<H", 201), b"\x84" + struct.pack("<i", 201)]
)
def test_extension_codes_go_the_same_way_even_from_the_cache(opcode, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copyreg.add_extension("os", "system", 201)
    try:
        assert pickle.loads(START + opcode + b".") is os.system, "now it is in the cache of this process"
        with pytest.raises(InputError, match="names os.system"):
            load(START + opcode + RUN + b"R.", tmp_path)
    finally:
        copyreg.remove_extension("os", "system", 201)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_truncated_pickle_is_refused(protocol, tmp_path):
    data = pickle.dumps([{"subject_id": 1, "tokens": np.arange(3), "timestamps": [0.0, 1.5]}], protocol)
    for cut in range(len(data)):
        with pytest.raises(InputError, match="x.pkl"):
            load(data[:cut], tmp_path)


@given(noise=st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_noise_is_refused_or_plain(noise, tmp_path_factory):
    folder = tmp_path_factory.mktemp("x")
    try:
        load(START + noise + b".", folder)
    except InputError as error:
        assert "\n" not in str(error)
