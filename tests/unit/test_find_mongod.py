"""What a user is told when there is no server to be had."""

from importlib import metadata
from pathlib import Path

import pytest

from agent.mongod import Mongod, MongodError, find_mongod


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_the_one_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = executable(tmp_path / "mongod", "#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_mongod() == binary


def test_without_any_the_error_names_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(metadata, "distribution", absent)
    assert find_mongod() is None
    with pytest.raises(MongodError, match=r"on PATH.*fwagent\[demo\]"):
        Mongod(tmp_path).start()


def test_a_server_that_cannot_run_says_what_it_wants(tmp_path: Path) -> None:
    loader = "error while loading shared libraries: libcurl.so.4: cannot open shared object file"
    binary = executable(tmp_path / "mongod", f"#!/bin/sh\necho '{loader}' >&2\nexit 127\n")
    server = Mongod(tmp_path / "server", binary=binary)
    with pytest.raises(MongodError, match=r"status 127(?s:.*)libcurl\.so\.4(?s:.*)apt-get install"):
        server.start()
    assert server.pid is None


def test_a_server_that_is_never_ready_is_given_up_and_killed(tmp_path: Path) -> None:
    binary = executable(tmp_path / "mongod", "#!/bin/sh\necho starting\nexec sleep 60\n")
    server = Mongod(tmp_path / "server", binary=binary)
    with pytest.raises(MongodError, match=r"not ready yet(?s:.*)starting"):
        server.start(timeout=0.5)
    assert server.pid is None
