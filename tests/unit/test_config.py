"""The configuration file: what is taken, what is refused, and that no secret gets out."""

import os
import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.config import ConfigError, SyncSection, config_path, load_config
from fwcore.errors import InvalidSettings
from tests.support.agent import write_toml

PASSWORD = "s3cr3t"
WITH_PASSWORD = f"mongodb://me:{PASSWORD}@db.example.org/"
MINIMAL = {
    "launchpad": {"uri": "mongodb://db.example.org/"},
    "worker": {"name": "w"},
    "launch": {"root": "/scratch/fw"},
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("FWAGENT_", "CREDENTIALS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def write(tmp_path):
    """Write the minimal configuration with keys added (None: taken away); return its path."""

    def write(mode=0o600, **sections):
        tree = {name: dict(keys) for name, keys in MINIMAL.items()}
        for name, keys in sections.items():
            tree[name] = {**tree.get(name, {}), **keys}
        return write_toml(tmp_path / "config.toml", tree, mode)

    return write


def used(path):
    config = load_config(path)
    config.fworker()
    config.connect().close()


def refused(path, error=ConfigError):
    with pytest.raises(error) as caught:
        used(path)
    everything = "".join(traceback.format_exception(caught.value)) + caught.value.hint
    assert PASSWORD not in everything
    return caught.value


def connected(config):
    launchpad = config.connect()
    launchpad.close()
    return launchpad.where


# ------------------------------------------------------------------------------------ what is taken


def test_a_minimal_file_gives_the_documented_defaults(write):
    config = load_config(write())
    assert config.launchpad.name == "fireworks"
    assert (config.launch.max_queued, config.launch.max_running) == (50, 0)
    assert config.queue.type == "slurm"
    sync = config.sync
    assert (sync.sweep_interval, sync.reserve_interval, sync.lost) == (30, 30, "fizzle")
    assert config.runner == "python3 -m fwrunner"
    assert config.private == Path("/scratch/fw/.fwagent")
    worker = config.fworker()
    assert (worker.name, worker.category, worker.query, worker.env) == ("w", "", {}, {})


@pytest.mark.parametrize(
    "url", [f"ftp://h/{PASSWORD}", PASSWORD, f"https:///{PASSWORD}", f"http://h/{PASSWORD} x"]
)
def test_a_heartbeat_url_is_checked_and_never_shown(write, url):
    told = refused(write(monitor={"heartbeat_url": url}))
    assert "monitor.heartbeat_url: must be an http or https URL" in told.title
    good = load_config(write(monitor={"heartbeat_url": f"https://h/{PASSWORD}"}))
    assert PASSWORD not in repr(good)


def test_every_key_arrives(write):
    config = load_config(
        write(
            launchpad={"name": "other"},
            worker={
                "category": ["a", "b"],
                "query": {"spec.n": {"$gt": 1}},
                "env": {"vasp": "srun vasp"},
            },
            launch={"max_queued": 7, "max_running": 3},
            queue={"type": "pbs", "options": {"account": "m1"}, "runner": "rlaunch singleshot"},
            sync={
                "sweep_interval": 1.5,
                "sweep_fastest": 0.5,
                "sweep_slowest": 9,
                "sweep_watched": 19,
                "sweep_rate": 7,
                "events": False,
                "outbox_interval": 2,
                "reserve_interval": 3,
                "reconcile_interval": 4,
                "ping_interval": 5,
                "lost": "report",
                "lost_after": 6,
                "lost_reruns": 0,
                "max_report_size": 4096,
            },
        )
    )
    worker = config.fworker()
    assert worker.category == ("a", "b")
    assert worker.query == {"spec.n": {"$gt": 1}}
    assert worker.env == {"vasp": "srun vasp"}
    assert connected(config) == "db.example.org:27017/other"
    assert (config.launch.max_queued, config.launch.max_running) == (7, 3)
    assert (config.queue.type, config.queue.options) == ("pbs", {"account": "m1"})
    assert config.runner == "rlaunch singleshot"
    assert config.sync.model_dump() == {
        "sweep_interval": 1.5,
        "sweep_fastest": 0.5,
        "sweep_slowest": 9,
        "sweep_watched": 19,
        "sweep_rate": 7,
        "events": False,
        "outbox_interval": 2,
        "reserve_interval": 3,
        "reconcile_interval": 4,
        "ping_interval": 5,
        "lost": "report",
        "lost_after": 6,
        "lost_reruns": 0,
        "max_report_size": 4096,
    }


def test_the_local_queue_runs_this_interpreter(write):
    import sys

    config = load_config(write(queue={"type": "local"}))
    assert config.runner == f"{sys.executable} -m fwrunner"


def test_a_configuration_cannot_be_changed(write):
    config = load_config(write())
    with pytest.raises(ValidationError, match="frozen"):
        config.launch.max_queued = 1


def test_variables_and_the_home_are_expanded(write, monkeypatch, tmp_path):
    monkeypatch.setenv("SCRATCH", "/big")
    assert load_config(write(launch={"root": "$SCRATCH/fw"})).launch.root == Path("/big/fw")
    assert load_config(write(launch={"root": "${SCRATCH}/fw"})).launch.root == Path("/big/fw")
    assert load_config(write(launch={"root": "~/fw"})).launch.root == tmp_path / "fw"


# --------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("section", "key", "nearest"),
    [
        ("launchpad", "url", "'uri'"),
        ("worker", "nmae", "'name'"),
        ("launch", "max_queue", "'max_queued'"),
        ("queue", "typ", "'type'"),
        ("sync", "sweepinterval", "'sweep_interval'"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(write, section, key, nearest):
    error = refused(write(**{section: {key: "x"}}))
    assert f"unknown key '{section}.{key}'" in error.title
    assert error.hint == f"did you mean {nearest}?"


def test_an_unknown_section_is_named_too(write):
    error = refused(write(snyc={"sweep_interval": 1}))
    assert "unknown key 'snyc'" in error.title
    assert error.hint == "did you mean 'sync'?"


def test_a_key_like_no_other_gets_the_list(write):
    error = refused(write(launch={"zzz": 1}))
    assert error.hint == "known are: root, group_readable, max_queued, max_running"


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("launchpad", "name", 5, "string"),
        ("launchpad", "name", "", "at least 1"),
        ("worker", "query", "{}", "dictionary"),
        ("worker", "category", 5, "string"),
        ("launch", "max_queued", "many", "integer"),
        ("launch", "max_queued", 0, "greater than or equal to 1"),
        ("launch", "max_running", -1, "greater than or equal to 0"),
        ("queue", "type", "moab", "'slurm', 'pbs', 'sge', 'lsf', 'local' or 'none'"),
        ("queue", "options", 5, "dictionary"),
        ("sync", "sweep_interval", 0, "greater than 0"),
        ("sync", "ping_interval", "often", "number"),
        ("sync", "lost", "ignore", "'fizzle', 'rerun' or 'report'"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(write, section, key, value, words):
    path = write(**{section: {key: value}})
    error = refused(path)
    assert error.title.startswith(f"{path}: {section}.{key}")
    assert words in error.title
    assert error.hint


def test_a_section_that_is_no_section(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("worker = 'w'\n", encoding="utf-8")
    error = refused(path)
    assert "worker: " in error.title
    assert error.hint == "see config.example.toml"


@pytest.mark.parametrize("missing", ["worker", "launch"])
def test_a_section_that_is_needed(tmp_path, missing):
    tree = {name: keys for name, keys in MINIMAL.items() if name != missing}
    error = refused(write_toml(tmp_path / "config.toml", tree))
    assert f"{missing}: Field required" in error.title


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("fireworks", "must be an absolute path"),
        ("./fireworks", "must be an absolute path"),
        ("$NO_SUCH_VARIABLE/fw", "the environment variable $NO_SUCH_VARIABLE is not set"),
        ("/a/${NO_SUCH_VARIABLE}", "the environment variable ${NO_SUCH_VARIABLE} is not set"),
        ("~no_such_user/fw", "no_such_user"),
        ("", "must be an absolute path"),
    ],
)
def test_a_launch_root_that_would_be_anywhere(write, root, words):
    path = write(launch={"root": root})
    error = refused(path)
    assert error.title.startswith(f"{path}: launch.root: ")
    assert words in error.title


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[worker", "(at end of document)"),
        ("[worker]\nname = \n", "(at line 2, column 8)"),
        (f'a = 1\nname = "{PASSWORD}\n', "(at line 2, column 15)"),
        (f"a = '{PASSWORD}'\na = '{PASSWORD}'\n", "(at line 2, column 13)"),
    ],
)
def test_broken_toml_is_told_with_its_place_but_not_its_text(tmp_path, text, place):
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    error = refused(path)
    assert f"{path} is not valid TOML" in error.title
    assert place in error.title


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert f"{path} cannot be read" in refused(path).title
    assert f"{tmp_path} cannot be read" in refused(tmp_path).title


def test_no_database_at_all(write):
    error = refused(write(launchpad={"uri": None}))
    assert error.title == "the configuration names no database"
    assert "$FWAGENT_LAUNCHPAD_URI" in error.hint


def test_no_worker_at_all(write):
    error = refused(write(worker={"name": None}))
    assert error.title == "the configuration names no worker"
    assert "worker.file" in error.hint


# ------------------------------------------------------------------------------ where the file is


def test_no_file_is_told_with_the_ways_to_name_one(tmp_path):
    error = refused(None)
    assert error.title == f"there is no configuration at {tmp_path}/.config/fwagent/config.toml"
    assert "--config" in error.hint
    assert "$FWAGENT_CONFIG" in error.hint


def test_the_given_file_comes_before_the_variable_and_that_before_the_default(
    monkeypatch, tmp_path
):
    assert config_path(None) == tmp_path / ".config/fwagent/config.toml"
    monkeypatch.setenv("FWAGENT_CONFIG", "~/other.toml")
    assert config_path(None) == tmp_path / "other.toml"
    assert config_path(Path("/given.toml")) == Path("/given.toml")
    monkeypatch.setenv("FWAGENT_CONFIG", "")
    assert config_path(None) == tmp_path / ".config/fwagent/config.toml"
    assert "no_such_user" in refused(Path("~no_such_user/config.toml")).title


# ---------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602])
def test_a_readable_file_with_a_password_is_refused_with_the_command_that_mends_it(write, mode):
    path = write(mode, launchpad={"uri": WITH_PASSWORD})
    error = refused(path)
    assert error.title == f"{path} holds a password and others can read it"
    assert error.hint == f"run: chmod 600 {path}"


@pytest.mark.parametrize(
    "uri", ["mongodb://me@db/", "mongodb://db:27017/?tls=true", "mongodb://a,b"]
)
def test_a_readable_file_without_a_password_is_fine(write, uri):
    assert load_config(write(0o644, launchpad={"uri": uri})).launchpad.uri is not None


def test_a_private_file_with_a_password_is_fine_and_does_not_show_it(write):
    config = load_config(write(launchpad={"uri": WITH_PASSWORD}))
    assert connected(config) == "db.example.org:27017/fireworks"
    for text in (str(config), repr(config), repr(config.launchpad), config.model_dump_json()):
        assert PASSWORD not in text
    assert config.launchpad.uri is not None
    assert config.launchpad.uri.get_secret_value() == WITH_PASSWORD


@pytest.mark.parametrize("section", ["launchpad", "worker"])
def test_an_error_elsewhere_does_not_show_the_password(write, section):
    refused(write(launchpad={"uri": WITH_PASSWORD}, sync={"lost": PASSWORD}))
    refused(write(**{section: {"uri": [WITH_PASSWORD]}}))


def test_a_uri_that_cannot_be_understood_is_not_shown(write):
    path = write(launchpad={"uri": f"mongodb://me:{PASSWORD}@db:notaport/"})
    assert "URI cannot be understood" in refused(path, InvalidSettings).title


def test_uri_file(write, tmp_path):
    secret = tmp_path / "uri"
    secret.write_text(f"  {WITH_PASSWORD}\n", encoding="utf-8")
    secret.chmod(0o644)
    path = write(launchpad={"uri": None, "uri_file": "~/uri", "name": "mine"})
    assert refused(path).hint == f"run: chmod 600 {secret}"

    secret.chmod(0o400)
    assert connected(load_config(path)) == "db.example.org:27017/mine"

    secret.unlink()
    assert "launchpad.uri_file cannot be read" in refused(path).title


def test_a_launchpad_file(write, tmp_path):
    launchpad = tmp_path / "my_launchpad.yaml"
    launchpad.write_text(
        f"host: db2\nname: theirs\nusername: me\npassword: {PASSWORD}\n", encoding="utf-8"
    )
    launchpad.chmod(0o644)
    path = write(launchpad={"uri": None, "file": str(launchpad)})
    assert refused(path).hint == f"run: chmod 600 {launchpad}"

    launchpad.chmod(0o600)
    assert connected(load_config(path)) == "db2:27017/theirs"


@pytest.mark.parametrize(
    "text",
    [
        f"host: {WITH_PASSWORD}\nname: n\nuri_mode: true\n",
        f"host: db\nname: n\nmongoclient_kwargs: {{username: me, password: {PASSWORD}}}\n",
    ],
)
def test_a_launchpad_file_that_holds_its_password_elsewhere(write, tmp_path, text):
    launchpad = tmp_path / "my_launchpad.yaml"
    launchpad.write_text(text, encoding="utf-8")
    launchpad.chmod(0o644)
    path = write(launchpad={"uri": None, "file": str(launchpad)})
    assert refused(path).hint == f"run: chmod 600 {launchpad}"


def test_a_launchpad_file_that_others_may_read_since_it_holds_no_password(write, tmp_path):
    launchpad = tmp_path / "my_launchpad.yaml"
    launchpad.write_text("host: db2\nname: theirs\nusername: null\npassword: null\n", "utf-8")
    launchpad.chmod(0o644)
    config = load_config(write(launchpad={"uri": None, "file": str(launchpad)}))
    assert connected(config) == "db2:27017/theirs"


def test_a_launchpad_file_that_is_not_there(write, tmp_path):
    path = write(launchpad={"uri": None, "file": "~/none.yaml"})
    assert str(tmp_path / "none.yaml") in refused(path, InvalidSettings).title


def test_the_environment_comes_first(write, monkeypatch, tmp_path):
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "launchpad_uri").write_text("mongodb://from-systemd/\n", encoding="utf-8")
    launchpad = tmp_path / "my_launchpad.yaml"
    launchpad.write_text("host: from-file\nname: n\n", encoding="utf-8")
    secret = tmp_path / "uri"
    secret.write_text("mongodb://from-uri-file/", encoding="utf-8")
    plain = write(launchpad={"uri_file": str(secret)})
    assert connected(load_config(plain)) == "from-uri-file:27017/fireworks"

    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert connected(load_config(plain)) == "from-systemd:27017/fireworks"

    monkeypatch.setenv("FWAGENT_LAUNCHPAD_URI", WITH_PASSWORD.replace("db.example.org", "from-env"))
    assert connected(load_config(plain)) == "from-env:27017/fireworks"
    in_file = write(launchpad={"uri": None, "file": str(launchpad)})
    # The password need not be in the file, but the database is the one it names.
    assert connected(load_config(in_file)) == "from-env:27017/n"
    # Nothing but the environment is needed then.
    assert connected(load_config(write(launchpad={"uri": None}))) == "from-env:27017/fireworks"


def test_a_credentials_directory_of_something_else_does_not_matter(write, monkeypatch, tmp_path):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert connected(load_config(write())) == "db.example.org:27017/fireworks"


def test_a_worker_file(write, tmp_path):
    (tmp_path / "my_fworker.yaml").write_text(
        "name: theirs\ncategory: [x]\nquery: '{\"spec.n\": 1}'\nenv: {a: b}\n", encoding="utf-8"
    )
    worker = load_config(write(worker={"name": None, "file": "~/my_fworker.yaml"})).fworker()
    assert worker.name == "theirs"
    assert worker.category == ("x",)
    assert worker.query == {"spec.n": 1}
    assert worker.env == {"a": "b"}


def test_a_worker_file_that_is_broken(write, tmp_path):
    (tmp_path / "my_fworker.yaml").write_text("name: [\n", encoding="utf-8")
    path = write(worker={"name": None, "file": "~/my_fworker.yaml"})
    assert "my_fworker.yaml is not valid YAML" in refused(path, InvalidSettings).title


@pytest.mark.parametrize(
    ("section", "keys", "named"),
    [
        ("launchpad", {"file": "/x.yaml", "uri": "mongodb://db/"}, "uri"),
        ("launchpad", {"file": "/x.yaml", "name": "n"}, "name"),
        ("worker", {"file": "/x.yaml", "name": "w"}, "name"),
    ],
)
def test_a_file_and_what_it_stands_for_are_not_both_set(write, section, keys, named):
    # What is minimal is taken away where it is not what the case is about.
    minimal = dict.fromkeys(MINIMAL.get(section, {}))
    path = write(**{section: {**minimal, **keys}})
    with pytest.raises(ConfigError, match=f"`file` and `{named}` are both set"):
        load_config(path)


@pytest.mark.parametrize(
    ("given", "fastest", "slowest", "watched"),
    [
        ({}, 10, 30, 90),
        ({"sweep_slowest": 5}, 5, 5, 15),
        ({"sweep_fastest": 90}, 90, 90, 270),
        ({"sweep_watched": 40}, 10, 30, 40),
    ],
)
def test_bounds_of_the_sweep_follow_from_its_interval(given, fastest, slowest, watched):
    section = SyncSection(**given)
    assert (section.fastest, section.slowest, section.watched) == (fastest, slowest, watched)


def test_bounds_of_the_sweep_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="sweep_fastest must not be longer"):
        SyncSection(sweep_fastest=20, sweep_slowest=10)
    with pytest.raises(ValueError, match="sweep_watched must not be shorter"):
        SyncSection(sweep_slowest=20, sweep_watched=10)
