"""Results as JSON can hold them: what FireWorks would have stored, and never an error.

The rules, which FireWorks 2.1.4 has too (``fireworks/utilities/fw_serializers.py: recursive_dict``)
unless it says "here":

- None, bool, int, float (NaN and the infinities too) and text stay; tuples become lists.
- An object becomes what its ``as_dict``, else its ``to_dict`` returns, so an MSONable keeps its
  ``@module`` and ``@class``.
- A datetime becomes its ISO 8601 text; a numpy array a list; here also what else has ``tolist``, and a
  numpy number becomes a number (there a text, as ``"3"``).
- Everything else becomes ``str`` of it: a date ``"2026-01-02"``, a path its text, bytes ``"b'..'"``, a set
  ``"{1, 2}"``, a Decimal, a UUID, an Enum...
- Keys become texts as ``json`` makes them (``1`` is ``"1"``, None is ``"null"``), others by the rules above;
  here a tuple its ``str``.
- A lone surrogate in a text, which UTF-8 cannot hold, becomes U+FFFD here.

Here, what cannot be stored so is replaced, and all the rest is kept: an object whose text would be no
more than its address (``<x.Y object at 0x7f...>``), whose own conversion fails, an integer beyond 64 bits,
what holds itself or is nested more than 90 deep (MongoDB takes 100). In its place stands
``{"_fwagent_unserializable": {"type": "x.Y", "why": "it has no JSON form", "text": "<x.Y ...>"}}``. A NUL
in a key, which BSON cannot hold, becomes U+FFFD, and of two keys with the same text the last is kept.
"""

import json
import sys
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

from fwrunner.protocol import MAX_ACTION_SIZE, MAX_INT

#: The key of what stands in place of a value that cannot be stored.
UNSERIALIZABLE = "_fwagent_unserializable"

_MAX_DEPTH = 90

# Values that are copied at most: more could not be told anyway, being at least two bytes each.
_MAX_VALUES = MAX_ACTION_SIZE // 2

_MAX_PROBLEMS = 1000

# Of the text of what is replaced.
_MAX_TEXT = 1000


def plain(value: Any, place: str = "", problems: Optional[List[str]] = None) -> Any:
    """Return a copy of a value by the rules above.

    To ``problems`` one text is added for each value that was replaced, beginning with its place, such as
    ``update_spec.x[1]``, up to a thousand; ``place`` is where the value itself is.
    """
    return _Copier(place, [] if problems is None else problems).copy(value)


def type_name(value: Any) -> str:
    """Return the name of a value's type, with its module unless it is built in."""
    kind = type(value)
    prefix = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return prefix + kind.__qualname__


class _Copier:
    """Copies one value; knows where in it it is."""

    def __init__(self, place: str, problems: List[str]) -> None:
        self._path = [place]
        self._problems = problems
        self._around: Set[int] = set()
        self._values = 0

    def copy(self, value: Any) -> Any:
        self._values += 1
        kind = type(value)
        if value is None or kind is bool or kind is float:
            return value
        if kind is str:
            return _text(value)
        if kind is int:
            return self._integer(value)
        try:
            return self._form(value)
        except Exception as error:
            return self._replaced(value, f"its conversion fails: {type(error).__name__}: {error}")

    def _form(self, value: Any) -> Any:
        convert = _conversion(value)
        if convert is not None:
            form = convert(value)
            return self._inside(value, lambda: self._at("", form))
        return self._basic(value)

    def _basic(self, value: Any) -> Any:
        if isinstance(value, dict):
            return self._object(value)
        if isinstance(value, (list, tuple)):
            return self._inside(
                value, lambda: [self._at(f"[{i}]", item) for i, item in enumerate(value)]
            )
        if isinstance(value, int):
            return self._integer(int(value))
        if isinstance(value, float):
            return float(value)
        text = value.isoformat() if _is_datetime(value) else _quiet_text(value)
        if text is None or (text.startswith("<") and " at 0x" in text):
            return self._replaced(value, "it has no JSON form")
        return text

    def _object(self, value: Dict[Any, Any]) -> Any:
        pairs = list(self._pairs(value))
        return self._inside(
            value, lambda: {key: self._at(f".{key}", inner) for key, inner in pairs}
        )

    def _pairs(self, value: Dict[Any, Any]) -> Iterator[Tuple[str, Any]]:
        keys: Set[str] = set()
        for original, inner in value.items():
            key = original if type(original) is str else _key(original)
            text = _text(key).replace("\0", "\ufffd")
            if "\0" in key:
                self._problem(
                    f"has the key {key!r}, and a database takes none with a NUL character"
                )
            if text in keys:
                self._problem(f"has more than one key that is {text!r} as a text: the last is kept")
            keys.add(text)
            yield text, inner

    def _at(self, step: str, value: Any) -> Any:
        self._path.append(step)
        try:
            return self.copy(value)
        finally:
            self._path.pop()

    def _inside(self, value: Any, copy: Callable[[], Any]) -> Any:
        """Copy what a value holds, unless that has no end."""
        if id(value) in self._around:
            return self._replaced(value, "it holds itself", "")
        if len(self._path) > _MAX_DEPTH:
            return self._replaced(value, f"it is nested more than {_MAX_DEPTH} deep", "")
        if self._values > _MAX_VALUES:
            return self._replaced(value, "there are too many values to be told", "")
        self._around.add(id(value))
        try:
            return copy()
        finally:
            self._around.discard(id(value))

    def _integer(self, value: int) -> Any:
        if -MAX_INT - 1 <= value <= MAX_INT:
            return value
        return self._replaced(value, "it is an integer beyond 64 bits, which MongoDB cannot store")

    def _replaced(self, value: Any, why: str, text: Optional[str] = None) -> Dict[str, Any]:
        text = _quiet_text(value) if text is None else text
        self._problem(f"is a {type_name(value)}: {why}")
        described = {"type": type_name(value), "why": _text(why)}
        if text:
            described["text"] = text[:_MAX_TEXT]
        return {UNSERIALIZABLE: described}

    def _problem(self, what: str) -> None:
        place = "".join(self._path).lstrip(".") or "the result"
        if len(self._problems) < _MAX_PROBLEMS:
            self._problems.append(_text(f"{place:.200} {what}"))


def _conversion(value: Any) -> Optional[Callable[[Any], Any]]:
    """Return what makes simpler values of an object, if it has such a method."""
    if isinstance(value, type):
        return None
    for name in ("as_dict", "to_dict"):
        if hasattr(value, name):
            return lambda it: getattr(it, name)()
    if hasattr(value, "tolist") and not _is_numpy_date(value):
        return lambda it: it.tolist()
    return None


def _is_datetime(value: Any) -> bool:
    # Whoever has made one has imported the module; most tasks have not.
    module = sys.modules.get("datetime")
    return module is not None and isinstance(value, module.datetime)


def _is_numpy_date(value: Any) -> bool:
    # Of one with nanoseconds, `tolist` gives a number.
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    return kind in ("m", "M") and not getattr(value, "shape", ())


def _key(key: Any) -> str:
    convert = _conversion(key)
    if convert is not None and hasattr(key, "tolist"):
        key = convert(key)
    if key is None or isinstance(key, (bool, int, float)):
        return json.dumps(key)
    if _is_datetime(key):
        return str(key.isoformat())
    if isinstance(key, str):
        return str.__str__(key)
    return _quiet_text(key) or type_name(key)


def _quiet_text(value: Any) -> Optional[str]:
    """Return a value as a text, or None: the author of its class may not have thought of it."""
    try:
        return _text(str.__str__(value) if isinstance(value, str) else str(value))
    except Exception:
        return None


def _text(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return str.__str__(value)
