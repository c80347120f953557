"""No answer, or a refusal: said as such, with a hint, and without the password."""

import json
import traceback
from contextlib import contextmanager
from urllib.parse import quote_plus

import pytest

from agent.mongod import free_port
from fwcore.errors import DatabaseRefused, DatabaseUnreachable, InvalidSettings
from fwcore.launchpad import LaunchPad
from fwrunner.protocol import Report
from tests.support.launchpads import TASKS, WORKER, add, report, stage

PASSWORD = "p:/ %?#[]@ä+$1"
USER = "us er@b:c"


def shown(error: BaseException) -> str:
    """Everything that a log could show of an error, its causes included."""
    text = "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))
    while error.__context__ is not None:
        error = error.__context__
        text += str(error) + repr(error)
    return text


def without_password(error: BaseException, password: str) -> bool:
    return not any(form in shown(error) for form in (password, quote_plus(password)))


CALLS = {
    "check": lambda lp: lp.check(),
    "initialize": lambda lp: lp.initialize(),
    "prepare": lambda lp: lp.prepare(),
    "add": lambda lp: lp.add({"spec": {"_tasks": TASKS}}),
    "claim": lambda lp: lp.claim(WORKER, 1),
    "apply": lambda lp: lp.apply([Report(1, "RUNNING", "/d")]),
    "cancel": lambda lp: lp.cancel([1]),
    "rerun": lambda lp: lp.rerun([1]),
    "defuse": lambda lp: lp.defuse([1]),
    "forget": lambda lp: lp.forget([1]),
    "record_jobs": lambda lp: lp.record_jobs({1: "1"}),
    "open_launches": lambda lp: lp.open_launches(),
    "find_launches": lambda lp: lp.find_launches([1]),
    "active_launches": lambda lp: lp.active_launches([1]),
    "launch_ids_of": lambda lp: lp.launch_ids_of([1]),
    "fw_states": lambda lp: lp.fw_states(),
    "workflow_states": lambda lp: lp.workflow_states(),
    "counts": lambda lp: lp.counts(),
    "active_count": lambda lp: lp.active_count("w"),
    "stray_count": lambda lp: lp.stray_count("w"),
    "overwritten": lambda lp: lp.overwritten("w", ()),
    "register": lambda lp: lp.register("w", 1, "/d"),
    "unregister": lambda lp: lp.unregister("w", ["/d"]),
    "forget_registered": lambda lp: lp.forget_registered([1]),
    "registered": lambda lp: lp.registered("w"),
    "acquire_lease": lambda lp: lp.acquire_lease("w", "A", 60),
    "lease": lambda lp: lp.lease("w"),
}


@pytest.mark.parametrize("call", sorted(CALLS))
def test_nobody_answers(call) -> None:
    port = free_port()
    uri = f"mongodb://{quote_plus(USER)}:{quote_plus(PASSWORD)}@127.0.0.1:{port}/?authSource=fw"
    lp = LaunchPad.from_uri(uri, "fw", timeout=0.05)
    with pytest.raises(DatabaseUnreachable) as caught:
        CALLS[call](lp)
    lp.close()
    error = caught.value
    assert f"127.0.0.1:{port}/fw does not answer" in error.title
    assert "\n" not in error.title
    assert error.hint
    assert without_password(error, PASSWORD)


def test_a_server_that_goes_away_and_comes_back(private_mongod) -> None:
    lp = LaunchPad.from_uri(private_mongod.uri, "fw", timeout=0.2)
    lp.initialize()
    ids = add(lp, {"a": "b"})
    [claim] = stage(lp, ids["a"])
    private_mongod.stop()
    with pytest.raises(DatabaseUnreachable):
        lp.apply([report(claim)])
    with pytest.raises(DatabaseUnreachable):
        lp.check()
    private_mongod.start()
    assert lp.apply([report(claim)]).released == [ids["b"]]
    lp.close()


@contextmanager
def user(mongo_client, db_name):
    database = mongo_client[db_name]
    database.command("createUser", USER, pwd=PASSWORD, roles=["readWrite"])
    try:
        yield
    finally:
        database.command("dropUser", USER)


def launchpad_file(tmp_path, mongod, name, password=PASSWORD, **more):
    path = tmp_path / "my_launchpad.json"
    settings = {"host": "127.0.0.1", "port": mongod.port, "name": name}
    path.write_text(json.dumps({**settings, "username": USER, "password": password, **more}))
    return path


def test_a_user_with_every_special_character(tmp_path, mongod, mongo_client, db_name) -> None:
    uri = f"mongodb://{quote_plus(USER)}:{quote_plus(PASSWORD)}@127.0.0.1:{mongod.port}/?authSource={db_name}"
    uri_file = {"host": uri, "uri_mode": True, "username": None, "password": None}
    with user(mongo_client, db_name):
        launchpads = [
            LaunchPad.from_file(launchpad_file(tmp_path, mongod, db_name)),
            LaunchPad.from_uri(uri, db_name),
            LaunchPad.from_file(launchpad_file(tmp_path, mongod, db_name, **uri_file)),
        ]
        done = []
        for launchpad in launchpads:
            assert PASSWORD not in launchpad.where
            done.append(launchpad.initialize())
            launchpad.check()
            launchpad.close()
    assert done == [True, False, False]


@pytest.mark.parametrize("call", ["check", "apply", "claim", "add", "acquire_lease"])
def test_a_wrong_password(tmp_path, mongod, mongo_client, db_name, call) -> None:
    wrong = "wr0ng-" + PASSWORD
    with user(mongo_client, db_name):
        lp = LaunchPad.from_file(launchpad_file(tmp_path, mongod, db_name, wrong), timeout=5)
        with pytest.raises(DatabaseRefused, match="refused: Authentication failed") as caught:
            CALLS[call](lp)
        lp.close()
    assert "authSource" in caught.value.hint
    assert without_password(caught.value, wrong)
    assert without_password(caught.value, PASSWORD)


@pytest.mark.parametrize("authsource", ["admin", "elsewhere"])
def test_the_user_of_another_database_is_another_user(
    tmp_path, mongod, mongo_client, db_name, authsource
) -> None:
    path = launchpad_file(tmp_path, mongod, db_name, authsource=authsource)
    with user(mongo_client, db_name):
        lp = LaunchPad.from_file(path)
        with pytest.raises(DatabaseRefused):
            lp.check()
        lp.close()


@pytest.mark.parametrize(
    "uri",
    [
        f"mongodb://u:{PASSWORD}@db/",
        "mongodb://u:s3cr3t@db:99999/",
        "mongodb://u:s3cr3t@db/?authMechanism=GSSAPI&authSource=fw",
        "mongodb://u:s3cr3t@/",
        "http://u:s3cr3t@db/",
        "u:s3cr3t@db",
        "",
    ],
)
def test_a_uri_that_cannot_be_understood(uri) -> None:
    with pytest.raises(InvalidSettings) as caught:
        LaunchPad.from_uri(uri, "fw")
    assert "mongodb://USER:PASSWORD@HOST" in caught.value.hint
    error = caught.value
    text = "".join(traceback.format_exception(error)) + repr(error)
    assert "s3cr3t" not in text
    assert PASSWORD not in text
