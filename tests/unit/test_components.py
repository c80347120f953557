"""A missing component must not pass for a green run in CI."""

import pytest

from tests.support import components


def test_in_ci_it_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no such server"):
        components.unavailable("no such server")


def test_at_home_it_is_a_skip_that_the_summary_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(components, "missing", set[str]())
    with pytest.raises(pytest.skip.Exception, match="no such server"):
        components.unavailable("no such server")
    assert components.missing == {"no such server"}
