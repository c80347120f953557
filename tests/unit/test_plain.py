"""Results as JSON: FireWorks' rules, and what becomes of a value that has no such form."""

import datetime as dt
import enum
import json
import math
from collections import OrderedDict, defaultdict, deque
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fwrunner import plain as module
from fwrunner.plain import UNSERIALIZABLE, plain


class AsDict:
    def __init__(self, form: Any) -> None:
        self.form = form

    def as_dict(self) -> Any:
        return self.form


class ToDict:
    def __init__(self, form: Any) -> None:
        self.form = form

    def to_dict(self) -> Any:
        return self.form


class Fails:
    def __str__(self) -> str:
        raise RuntimeError

    def as_dict(self) -> Any:
        raise ValueError("no \ud800")


class Unhelpful:
    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


class BadDict(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("no")


class Array:
    """As numpy's arrays and scalars are."""

    def __init__(self, value: Any, kind: str = "i", shape: Any = ()) -> None:
        self.value = value
        self.dtype = AsDict(None)
        self.dtype.kind = kind  # type: ignore[attr-defined]
        self.shape = shape

    def tolist(self) -> Any:
        return self.value

    def __str__(self) -> str:
        return f"array of {self.value}"


class Word(str, enum.Enum):
    A = "a"


class Number(enum.IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ((1, (2,)), [1, [2]]),
        (True, True),
        (dt.datetime(2026, 1, 2, 3, tzinfo=dt.timezone.utc), "2026-01-02T03:00:00+00:00"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.timedelta(hours=1), "1:00:00"),
        ({1: "a", None: "b"}, {"1": "a", "null": "b"}),
        ({True: {}}, {"true": {}}),
        ({1.5: {}}, {"1.5": {}}),
        ({dt.date(2026, 1, 2): 1}, {"2026-01-02": 1}),
        ({dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc): 1}, {"2026-01-02T00:00:00+00:00": 1}),
        ({(1, 2): 1, b"x": 2, Word.A: 3}, {"(1, 2)": 1, "b'x'": 2, "a": 3}),
        (OrderedDict(a=defaultdict(list, b=[1])), {"a": {"b": [1]}}),
        (AsDict({"a": AsDict([1])}), {"a": [1]}),
        (ToDict({"a": ToDict(1)}), {"a": 1}),
        (AsDict({"@module": "m", "@class": "C"}), {"@module": "m", "@class": "C"}),
        (Array([Array(1), 2.5]), [1, 2.5]),
        ({Array(3): 1}, {"3": 1}),
        (Array(5, "M"), "array of 5"),
        (Array([5], "M", (1,)), [5]),
        ("ok \ud800!", "ok \ufffd!"),
        ("\ud83d\ude00", "\U0001f600"),
        (2**63 - 1, 2**63 - 1),
        ([Word.A, Number.ONE], ["a", 1]),
        ({1, }, "{1}"),
        (b"a\xff", "b'a\\xff'"),
        (Path("a/b"), "a/b"),
        (1j, "1j"),
        (Decimal("1.50"), "1.50"),
        (deque([1]), "deque([1])"),
        (int, "<class 'int'>"),
        (AsDict, f"<class '{__name__}.AsDict'>"),
    ],
)  # fmt: skip
def test_converted(value, stored):
    problems: list[str] = []
    assert plain(value, "", problems) == stored
    assert json.loads(json.dumps(plain(value))) == stored
    assert problems == []


def test_nan_stays():
    assert math.isnan(plain(float("nan")))


def test_it_is_a_copy():
    value: Any = {"a": [{}]}
    copy = plain(value)
    copy["a"][0]["b"] = 1
    assert value == {"a": [{}]}


@pytest.mark.parametrize(
    ("value", "place", "kind", "why"),
    [
        ({"x": [0, {"y": object()}]}, "r.x[1].y", "object", "it has no JSON form"),
        (test_nan_stays, "r", "function", "it has no JSON form"),
        ((letter for letter in "a"), "r", "generator", "it has no JSON form"),
        ([2**63], "r[0]", "int", "an integer beyond 64 bits"),
        ([-(2**63) - 1], "r[0]", "int", "an integer beyond 64 bits"),
        pytest.param(10**5000, "r", "int", "an integer beyond 64 bits", id="huge"),
        ({"a": [Unhelpful()]}, "r.a[0]", f"{__name__}.Unhelpful", "its conversion fails: KeyError"),
        ([BadDict(x=1)], "r[0]", f"{__name__}.BadDict", "RuntimeError: no"),
        ({"a": Fails()}, "r.a", f"{__name__}.Fails", "its conversion fails: ValueError: no \ufffd"),
    ],
)
def test_what_has_no_form_is_replaced_and_told(value, place, kind, why):
    problems: list[str] = []
    text = json.dumps(plain({"v": value, "kept": 1}["v"], "r", problems))
    (problem,) = problems
    assert problem.startswith(f"{place} is a {kind}: ")
    assert why in problem
    assert json.dumps(UNSERIALIZABLE) in text
    assert json.dumps(kind) in text
    text.encode()


def test_what_is_replaced_is_described():
    whole = plain([2**64, {"kept": 1}])
    why = "it is an integer beyond 64 bits, which MongoDB cannot store"
    assert whole == [{UNSERIALIZABLE: {"type": "int", "why": why, "text": str(2**64)}}, {"kept": 1}]
    assert "text" not in plain(Fails())[UNSERIALIZABLE]
    long = plain(type("Long", (), {"__str__": lambda self: "<" + "x" * 9999 + " at 0x"})())
    assert len(long[UNSERIALIZABLE]["text"]) == 1000


def test_what_holds_itself():
    loop: list[Any] = [1]
    loop.append({"again": loop, "kept": 2})
    problems: list[str] = []
    copied = plain({"a": loop}, "", problems)
    assert (copied["a"][0], copied["a"][1]["kept"]) == (1, 2)
    assert UNSERIALIZABLE in copied["a"][1]["again"]
    assert problems == ["a[1].again is a list: it holds itself"]
    endless = AsDict(None)
    endless.form = endless
    assert "holds itself" in json.dumps(plain(endless))


def test_what_never_ends(monkeypatch):
    class Endless:
        def as_dict(self) -> Any:
            return {"a": Endless(), "b": Endless()}

    monkeypatch.setattr(module, "_MAX_VALUES", 1000)
    problems: list[str] = []
    text = json.dumps(plain({"kept": 1, "endless": Endless()}, "", problems))
    assert '"kept": 1' in text
    assert len(text) < 200_000
    assert "more than 90 deep" in problems[0]
    assert "too many" in problems[-1]


def test_no_more_is_told_than_can_be_read():
    problems: list[str] = []
    assert len(plain([object()] * 2000, "", problems)) == 2000
    assert len(problems) == 1000


def test_the_same_object_twice_is_no_loop():
    shared = {"x": 1}
    assert plain([shared, shared, AsDict(shared)]) == [{"x": 1}] * 3


def test_keys_that_cannot_stay():
    problems: list[str] = []
    assert plain({"d": {"a\0b": 0, 1: 1, "1": 2}}, "", problems) == {"d": {"a\ufffdb": 0, "1": 2}}
    assert problems == [
        "d has the key 'a\\x00b', and a database takes none with a NUL character",
        "d has more than one key that is '1' as a text: the last is kept",
    ]


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
    )
)  # fmt: skip
def test_json_is_left_alone(value):
    problems: list[str] = []
    assert plain(value, "", problems) == value
    assert problems == []
