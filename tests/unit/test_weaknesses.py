"""docs/compatibility.md: each weakness of the reference has a row, and each row names tests that exist."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = (REPOSITORY / "docs" / "compatibility.md").read_text("utf-8")
WEAKNESSES = range(39)
_TEST = re.compile(r"`((?:unit|mongo|faults|interop|cluster)/test_\w+)`")


def rows() -> dict[int, list[str]]:
    """Return the tests that the table names for each weakness."""
    found: dict[int, list[str]] = {}
    for line in DOCUMENT.splitlines():
        named = re.match(r"\| ((?:W\d+,? )+)", line)
        for number in re.findall(r"\d+", named[1]) if named else ():
            found.setdefault(int(number), []).extend(_TEST.findall(line.rsplit("|", 2)[1]))
    return found


@pytest.mark.parametrize("number", WEAKNESSES)
def test_each_has_a_row_with_tests(number: int) -> None:
    assert rows().get(number), f"W{number} has no row, or one without tests"


def test_each_test_that_the_document_names_exists() -> None:
    named = set(_TEST.findall(DOCUMENT))
    assert len(named) > 20
    assert {name for name in named if not (REPOSITORY / "tests" / f"{name}.py").exists()} == set()
