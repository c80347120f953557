"""`my_launchpad.yaml` and `my_fworker.yaml`, as FireWorks reads them."""

import json
import traceback

import pytest

from fwcore.errors import InvalidSettings
from fwcore.launchpad import LaunchPad
from fwcore.settings import read_launchpad_file, read_worker_file
from fwcore.worker import Worker


@pytest.fixture
def write(tmp_path):
    def write(text, name="my_launchpad.yaml"):
        path = tmp_path / name
        if isinstance(text, bytes):
            path.write_bytes(text)
        else:
            path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"host": "db"}, ("mongodb://db:27017/", "fireworks", {})),
        ({"host": None, "port": None}, ("mongodb://localhost:27017/", "fireworks", {})),
        ({"host": "db", "port": 1234, "name": "fw"}, ("mongodb://db:1234/", "fw", {})),
        # The user is looked up in the database itself, not in `admin`.
        (
            {"host": "db", "name": "fw", "username": "u", "password": "p"},
            ("mongodb://u:p@db:27017/?authSource=fw", "fw", {}),
        ),
        (
            {"host": "db", "username": "u", "password": "p", "authsource": None},
            ("mongodb://u:p@db:27017/?authSource=fireworks", "fireworks", {}),
        ),
        (
            {"host": "db", "username": "u", "password": "p", "authsource": "admin"},
            ("mongodb://u:p@db:27017/?authSource=admin", "fireworks", {}),
        ),
        (
            {"host": "db", "username": "a@b", "password": "p:/ %?#[]", "name": "fw"},
            ("mongodb://a%40b:p%3A%2F+%25%3F%23%5B%5D@db:27017/?authSource=fw", "fw", {}),
        ),
        (
            {"host": "db", "password": 12345, "username": 7, "authsource": 5},
            ("mongodb://7:12345@db:27017/?authSource=5", "fireworks", {}),
        ),
        (
            {
                "host": "mongodb://u:p@db1,db2/?tls=true",
                "uri_mode": True,
                "name": "fw",
                "port": 5,
                "username": "ignored",
            },
            ("mongodb://u:p@db1,db2/?tls=true", "fw", {}),
        ),
        (
            {"host": "db", "mongoclient_kwargs": {"tls": True}, "unknown": 1, "logdir": None},
            ("mongodb://db:27017/", "fireworks", {"tls": True}),
        ),
    ],
)
@pytest.mark.parametrize("name", ["my_launchpad.yaml", "my_launchpad.json"])
def test_a_launchpad_file(write, settings, name, expected) -> None:
    assert read_launchpad_file(write(settings, name)) == expected


@pytest.mark.parametrize("password", ["p:/ %?#[]@", "ä €", "+", "%40", "a b", "$ECRET&x=y"])
def test_special_characters_reach_the_server_as_they_are(write, password) -> None:
    path = write({"host": "127.0.0.1", "username": "a@b:c", "password": password, "name": "fw"})
    launchpad = LaunchPad.from_file(path)
    credentials = launchpad._db.client.options.pool_options._credentials
    launchpad.close()
    assert credentials is not None
    assert (credentials.username, credentials.password) == ("a@b:c", password)
    assert credentials.source == "fw"


SECRET = "s3cr3t-pass"


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (f"host: db\npassword: [{SECRET}\n", "a.yaml", "is not valid YAML"),
        (f"host: db\n  password: {SECRET}\n x", "a.yaml", "is not valid YAML"),
        (f'password: "{SECRET}\\q"\n', "a.yaml", "is not valid YAML"),
        (f"password: {SECRET}\npassword: {SECRET}\n", "a.yaml", "is not valid YAML"),
        (f"password: !!int {SECRET}\n", "a.yaml", "is not valid YAML"),
        (f'{{"password": "{SECRET}"', "a.json", "is not valid JSON"),
        (f"- {SECRET}\n", "a.yaml", "holds no object"),
        (SECRET, "a.yaml", "holds no object"),
        ("", "a.yaml", "holds no object"),
        (b"password: " + SECRET.encode() + b"\xff\n", "a.yaml", "cannot be read"),
        (
            f"host: db\npassword: {SECRET}\nmongoclient_kwargs: [1]\n",
            "a.yaml",
            "mongoclient_kwargs",
        ),
        (f"host: mongodb://u:{SECRET}@db/\nuri_mode: true\n", "a.yaml", "uri_mode needs `name`"),
        (
            f"host: mongodb://u:{SECRET}@@db:port/\nuri_mode: true\nname: f\n",
            "a.yaml",
            "URI cannot",
        ),
        (f"host: [db]\nusername: u\npassword: {SECRET}\n", "a.yaml", "host is no text"),
        (f"host: db\nport: x\nusername: u\npassword: {SECRET}\n", "a.yaml", "URI cannot"),
        (
            f"host: db\npassword: {SECRET}\nusername: u\nmongoclient_kwargs: {{nonsense: 1}}\n",
            "a.yaml",
            "URI cannot",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_not_quoted(write, text, name, said) -> None:
    with pytest.raises(InvalidSettings, match=said) as caught:
        LaunchPad.from_file(write(text, name))
    error = caught.value
    shown = "".join(traceback.format_exception(error)) + repr(error) + error.title + error.hint
    assert SECRET not in shown
    assert error.hint


def test_a_missing_file(tmp_path) -> None:
    with pytest.raises(InvalidSettings, match=r"there is no file .*absent\.yaml"):
        LaunchPad.from_file(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("settings", "worker"),
    [
        ({"name": "w", "category": "", "query": "{}"}, Worker("w")),
        (
            {"name": "w", "category": ["a", "b"], "query": '{"spec.n": 1}', "env": {"x": "y"}},
            Worker("w", ("a", "b"), {"spec.n": 1}, {"x": "y"}),
        ),
        (
            {"name": "w", "category": "__none__", "query": "{}", "env": None},
            Worker("w", "__none__"),
        ),
    ],
)
def test_a_worker_file(write, settings, worker) -> None:
    assert read_worker_file(write(settings, "my_fworker.yaml")) == worker


@pytest.mark.parametrize(
    "settings",
    [
        {"category": "", "query": "{}"},
        {"name": 5, "category": "", "query": "{}"},
        {"name": "w", "category": "", "query": {}},
        {"name": "w", "category": "", "query": "{"},
        {"name": "w", "category": "", "query": "[]"},
        {"name": "w", "category": 5, "query": "{}"},
        {"name": "w", "category": "", "query": "{}", "env": "x"},
    ],
)
def test_a_worker_file_that_cannot_be_used(write, settings) -> None:
    with pytest.raises(InvalidSettings, match=r"my_fworker\.yaml: "):
        read_worker_file(write(settings, "my_fworker.yaml"))
