"""A real component that is missing: a loud skip at home, a failure in CI."""

import os
from typing import NoReturn

import pytest

#: By this the summary at the end (tests/conftest.py) knows the skips that it tells loudly.
MISSING = "a component is missing: "


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail it in CI: there a missing component would pass for a green run."""
    if in_ci():
        pytest.fail(f"{reason} (CI is set: a failure, not a skip)", pytrace=False)
    pytest.skip(MISSING + reason)
