"""Pickles are read as data: what they would run never runs."""

from __future__ import annotations

import builtins
import os
import pickle
import subprocess
from collections import OrderedDict
from contextlib import suppress
from datetime import date
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crystalformers.data.sets.entry import SourceFileError
from crystalformers.data.sets.plain_pickle import read_plain_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(value=plain, protocol=st.sampled_from(PROTOCOLS))
def test_plain_data(tmp_path_factory: pytest.TempPathFactory, value: Any, protocol: int) -> None:
    path = tmp_path_factory.mktemp("pickles") / "a.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    found = read_plain_pickle(path)
    assert found == value
    assert repr(found) == repr(value)  # 1 is not True, nor 1.0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_and_numbers_of_numpy(tmp_path: Path, protocol: int) -> None:
    shared = np.arange(6.0).reshape(2, 3)
    value = {
        "c": shared,
        "fortran": np.asfortranarray(shared),
        "again": shared,
        "big_endian": np.arange(3, dtype=">i4"),
        "bool": np.array([True, False]),
        "empty": np.zeros((0, 3)),
        "scalars": [np.float64(1.5), np.float32(0.25), np.int64(7), np.bool_(True)],
        "list": [1, [2.5, "x"]],
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    found = read_plain_pickle(path)
    for key in ("c", "fortran", "again", "big_endian", "bool", "empty"):
        np.testing.assert_array_equal(found[key], value[key])
        assert found[key].dtype == value[key].dtype
    assert found["scalars"] == [1.5, 0.25, 7, True]
    assert found["list"] == [1, [2.5, "x"]]


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Has:
    """Pickles as an object with a state."""

    def __init__(self) -> None:
        self.x = 1


def evil(target: Path) -> dict[str, Any]:
    """Objects whose pickles do harm, or would build what is not plain data; `target` would be the trace of it."""
    code = f"open({str(target)!r}, 'w').close()"
    return {
        "os.system": Calls(os.system, f"touch {target}"),
        "exec": Calls(builtins.exec, code),
        "eval": Calls(builtins.eval, code),
        "subprocess": Calls(subprocess.call, ["touch", str(target)]),
        "partial": partial(os.system, f"touch {target}"),
        "import": Calls(builtins.__import__, "os"),
        "nested": [{"atoms": [1, Calls(os.system, f"touch {target}")]}],
        "as a key": {Calls(Path.touch, target): 1},
        "numpy": Calls(np.fromfile, str(target)),
        "object": Has(),
        "class": Has,
        "set": {1, 2},
        "ordered": OrderedDict(a=1),
        "complex": 1j,
        "date": date(2026, 1, 1),
        "fraction": Fraction(1, 3),
        "objects in an array": np.array([Calls(os.system, f"touch {target}")], dtype=object),
        "structured array": np.zeros(2, dtype=[("a", "f8")]),
        "text array": np.array(["a", "b"]),
        "masked array": np.ma.masked_array([1.0], [True]),
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", evil(Path()))
def test_nothing_is_ever_run(tmp_path: Path, name: str, protocol: int) -> None:
    target = tmp_path / "trace"
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(evil(target)[name], protocol))
    with pytest.raises(SourceFileError, match="only plain data are read; nothing was run"):
        read_plain_pickle(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'touch trace'\ntR.",
        b"(S'touch trace'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch trace'\no.",
        b"Pos.system\n.",
        b"\x80\x02\x8c\x02os\x8c\x06system\x93\x8c\x0btouch trace\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93)\x81.",
        b"\x80\x02\x82\x01.",
        b"\x80\x05\x97.",
        b"cnumpy\nndarray\n(tR.",
        b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
        b"cnumpy.core.multiarray\nfromstring\n.",
        b"cnumpy\nload\n.",
    ],
)
def test_instructions_written_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.pkl").write_bytes(content)
    with pytest.raises(SourceFileError, match="nothing was run"):
        read_plain_pickle(Path("a.pkl"))
    assert not Path("trace").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04",
        b"]",
        b"(.",
        b"].x",
        b"]].",
        b"a.",
        b"t.",
        b"h\x00.",
        b"(l(K\x01s.",
        b"N]a.",
        b"<html>",
    ],
)
def test_broken_pickles(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(SourceFileError, match="the pickle is broken"):
        read_plain_pickle(path)


@given(cut=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_changed_byte_never_leads_elsewhere(tmp_path_factory: pytest.TempPathFactory, cut: int, byte: int) -> None:
    """Whatever a damaged file says, the answer is plain data or a SourceFileError."""
    content = bytearray(pickle.dumps([{"id": "mp-1", "x": np.arange(4.0), "y": [1, 2.5, None]}] * 3, 4))
    content[cut % len(content)] = byte
    path = tmp_path_factory.mktemp("pickles") / "a.pkl"
    path.write_bytes(bytes(content))
    with suppress(SourceFileError):
        read_plain_pickle(path)


def test_a_small_file_cannot_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One long text, turned into bytes again and again."""
    monkeypatch.setattr("crystalformers.data.sets.archives.FREE_BYTES", 1 << 20)
    path = tmp_path / "a.pkl"
    text = b"x" * 10_000
    start = b"(c_codecs\nencode\np0\nV" + text + b"\np1\nVlatin1\np2\n"
    path.write_bytes(start + 10 * b"g0\n(g1\ng2\ntR" + b"l.")
    assert read_plain_pickle(path)[3:] == [text] * 10
    path.write_bytes(start + 300 * b"g0\n(g1\ng2\ntR" + b"l.")
    with pytest.raises(SourceFileError, match="unpacks to much more than its size"):
        read_plain_pickle(path)
