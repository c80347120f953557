"""A missing component must not pass for a green run in CI."""

from pathlib import Path

import pytest

from tests.support import components

pytest_plugins = ["pytester"]
REPOSITORY = Path(__file__).parents[2]


def test_in_ci_it_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no such server"):
        components.unavailable("no such server")


def test_at_home_it_is_a_skip_that_the_summary_tells(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from tests.conftest import pytest_terminal_summary")
    pytester.makepyfile(
        """
        from tests.support import components

        def test():
            components.unavailable("no such server")
        """
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CI", raising=False)
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*REAL COMPONENTS ARE MISSING*", "*skipped: no such server"])
