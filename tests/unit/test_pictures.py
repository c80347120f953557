"""The pictures of README.md and docs: they load nothing, and show what they are to."""

import importlib.util
import io
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

ROOT = Path(__file__).parents[2]
PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.svg"))


def texts(picture):
    root = ET.fromstring(picture)
    words = [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text")]
    return " ".join(words).replace("\N{NO-BREAK SPACE}", " ")


def loads(picture):
    picture = picture.replace('xmlns="http://www.w3.org/2000/svg"', "")
    return re.findall(r"(?:https?:|url\((?!#)|@import|href|<script|<image|file:)[^\s]*", picture)


def test_all_are_there_and_shown():
    assert [path.stem for path in PICTURES] == ["demo", "latency", "status"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"](docs/pictures/{name}.svg)" in readme for name in ("demo", "status"))
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert "](pictures/latency.svg)" in operations


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_a_picture_loads_nothing(path):
    picture = path.read_text(encoding="utf-8")
    assert loads(picture) == []
    assert "/tmp/" not in picture


def test_what_they_show():
    shown = {path.stem: texts(path.read_text(encoding="utf-8")) for path in PICTURES}
    assert "The database says what it should." in shown["demo"]
    assert "COMPLETED" in shown["demo"]
    for word in ("worker", "agent", "running on login01", "answers", "backlog"):
        assert word in shown["status"]


def test_fonts_are_taken_out():
    where = ROOT / "docs" / "pictures" / "make.py"
    spec = importlib.util.spec_from_file_location("make_pictures", where)
    assert spec is not None
    assert spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    console = Console(record=True, file=io.StringIO(), width=20)
    console.print("hello")
    drawn = console.export_svg(title="t", unique_id="u")
    assert len(loads(drawn)) > 1
    plain = make.without_fonts(drawn)
    assert loads(plain) == []
    assert "hello" in texts(plain)
