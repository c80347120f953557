"""Files that are wrong in every way that files can be: told, never FIZZLED, and nobody else pays for it."""

import os
import shutil
from pathlib import Path

import pytest

from fwcore.launchpad import LaunchPad
from fwrunner.protocol import outbox_name, write_atomic
from tests.support.agent import Site, Store, in_place, stock_report, wait_until

DB = "test_bad_input"


@pytest.fixture(scope="module")
def launchpad(mongod, mongo_client):
    launchpad = LaunchPad.from_uri(mongod.uri, DB)
    launchpad.initialize()
    yield launchpad
    launchpad.close()
    mongo_client.drop_database(DB)


@pytest.fixture
def store(launchpad, mongo_client):
    database = mongo_client[DB]
    for name in database.list_collection_names():
        database[name].delete_many({})
    database.fw_id_assigner.insert_one({"_id": -1, "next_fw_id": 1, "next_launch_id": 1})
    return Store(launchpad, database)


@pytest.fixture
def site(mongod, tmp_path, store):
    return Site(tmp_path / "home", mongod, DB)


def only(rows):
    (row,) = rows
    return row


@pytest.fixture
def stock(site, store):
    """A launch that stock rlaunch runs; a child waits for it."""
    store.add({}, {}, links={1: [2]})
    return only(store.stock_launches(site.home))


def offline_of(claim):
    return Path(claim.launch_dir, "FW_offline.json")


def entry(launch_id, fw_id, token, **changes):
    """A final report as fwrunner leaves it in the outbox."""
    report = {
        "protocol": 1,
        "launch_id": launch_id,
        "fw_id": fw_id,
        "token": token,
        "state": "COMPLETED",
        "launch_dir": "/x",
        "attempt": 1,
        "started_on": "2026-01-01T00:00:00+00:00",
        "completed_on": "2026-01-01T00:01:00+00:00",
        "fwaction": {"stored_data": {}},
    }
    return {**report, **changes}


def drop(site, document):
    site.outbox.mkdir(parents=True, exist_ok=True)
    path = site.outbox / outbox_name(document["launch_id"], document["token"], final=True)
    in_place(path, document)
    return path


# ------------------------------------------------------------------------------ torn and missing


def test_a_launch_directory_without_fw_json(site, store):
    fw_id = only(store.add())
    place = Path(site.launch_one()["launch_dir"])
    (place / "FW.json").unlink()
    ran = site.fwrunner(place)
    assert ran.status == 1
    assert "FW.json" in ran.stderr
    site.json("recover")
    assert store.state(fw_id) == "FIZZLED"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "FW_offline.json is empty"),
        (b"\0\0\0\0", "half-written or not JSON"),
        (b'{"launch_id": 1, "fwaction": {"stor', "half-written or not JSON"),
        (b'{"launch_id": 1, "x": "\xff\xfe"}', "half-written or not JSON"),
        (b"[" * 100_000, "nested deeper than Python can read"),
        (b'{"launch_id": 1, "x": %s}' % (b"9" * 5000), "integer of more digits than Python can"),
        (b"[]", "holds no JSON object"),
        (b'{"launch_id": 1, "fwaction": {}, "state": "READY"}', "'state' is 'READY'"),
        (b'{"launch_id": 1, "fwaction": {}}', "'state'"),
        (b'{"launch_id": 1, "fwaction": [], "state": "COMPLETED"}', "'fwaction'"),
        (b'{"launch_id": "1", "started_on": "x"}', "'launch_id'"),
    ],
)
def test_a_file_that_is_not_whole_is_waited_for(site, store, stock, content, reason):
    offline = offline_of(stock)
    offline.write_bytes(content)
    for _ in range(2):
        row = only(site.json("recover", status=3)["deferred"])
        assert row["launch_id"] == stock.launch_id
        assert reason in row["reason"]
        assert store.states() == {1: "RESERVED", 2: "WAITING"}
    in_place(offline, stock_report(stock))
    assert [row["state"] for row in site.json("recover")["applied"]] == ["COMPLETED"]
    assert store.states() == {1: "COMPLETED", 2: "READY"}


def test_the_daemon_waits_for_a_torn_file_and_says_so_once(site, store, stock):
    offline = offline_of(stock)
    offline.write_bytes(b"")
    site.configure(sync={"sweep_interval": 0.1, "outbox_interval": 0.1})
    with site.daemon() as daemon:
        told = daemon.wait_for("deferred", launch_id=stock.launch_id)
        assert "FW_offline.json is empty" in told["reason"]
        wait_until(lambda: site.json("status")["counts"]["deferred"] == 1)
        offline.write_bytes(b'{"launch_id": 1, "fwac')
        told = daemon.wait_for("deferred", launch_id=stock.launch_id)
        assert "half-written" in told["reason"]
        assert store.state(stock.fw_id) == "RESERVED"

        in_place(offline, stock_report(stock))
        daemon.wait_for("applied", launch_id=stock.launch_id, state="COMPLETED")
        wait_until(lambda: site.json("status")["counts"]["deferred"] == 0)
    assert len(daemon.logged("deferred")) == 2
    assert {line["level"] for line in daemon.log} == {"info"}


# ------------------------------------------------------------------------------------ whose file?


def test_a_symlink_a_fifo_and_a_directory_are_not_read(site, store, stock, tmp_path):
    secret = tmp_path / "elsewhere.json"
    in_place(secret, stock_report(stock))
    offline = offline_of(stock)
    offline.unlink()

    offline.symlink_to(secret)
    assert "symbolic" in only(site.json("recover", status=3)["deferred"])["reason"]
    offline.unlink()
    os.mkfifo(offline)
    assert "not a regular file" in only(site.json("recover", status=3)["deferred"])["reason"]
    offline.unlink()
    offline.mkdir()
    assert "Is a directory" in only(site.json("recover", status=3)["deferred"])["reason"]
    assert store.state(stock.fw_id) == "RESERVED"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_not_read(site, store, stock):
    in_place(offline_of(stock), stock_report(stock))
    os.chown(offline_of(stock), 12345, -1)
    path = drop(site, entry(stock.launch_id, stock.fw_id, "any"))
    os.chown(path, 12345, -1)
    entries, launch = site.json("recover", status=3)["deferred"]
    assert "an entry of the outbox cannot be read" in entries["reason"]
    for row in (entries, launch):
        assert "belongs to user 12345, not to us" in row["reason"]
    assert path.exists()
    assert store.state(stock.fw_id) == "RESERVED"


def test_a_file_that_is_too_large_is_not_read(site, store, stock):
    site.configure(sync={"max_report_size": 2048})
    in_place(offline_of(stock), stock_report(stock, stored_data={"x": "y" * 3000}))
    row = only(site.json("recover", status=3)["deferred"])
    assert "larger than 2048 bytes" in row["reason"]
    assert store.state(stock.fw_id) == "RESERVED"
    site.configure(sync={"max_report_size": 8192})
    assert len(site.json("recover")["applied"]) == 1


def test_a_result_that_no_document_holds_is_recovered(site, store, stock):
    in_place(offline_of(stock), stock_report(stock, stored_data={"x": "y" * 2**24}))
    assert only(site.json("recover")["applied"])["state"] == "COMPLETED"
    assert store.states() == {1: "COMPLETED", 2: "READY"}
    assert store.locks() == 0


# --------------------------------------------------------------------------------- whose report?


def test_a_report_of_nobody_is_set_aside_and_told(site, store):
    path = drop(site, entry(999, 9, "tok"))
    text = path.read_text()
    row = only(site.json("recover")["ignored"])
    assert row == {"launch_id": 999, "fw_id": 9, "reason": "the launch is not in this database"}
    assert not path.exists()
    assert (site.ignored / path.name).read_text() == text
    assert site.json("recover")["ignored"] == []


def test_a_report_of_an_archived_launch_changes_nothing(site, store):
    fw_id = only(store.add())
    place = site.launch_one()["launch_dir"]
    store.rerun(fw_id)
    assert site.fwrunner(place).status == 0
    before = store.launch(1)
    done = site.json("recover")
    assert done["applied"] == []
    assert {row["launch_id"] for row in done["ignored"]} == {1}
    assert "archived" in done["ignored"][0]["reason"]
    assert store.launch(1) == before
    assert store.state(fw_id) == "READY"
    assert [path.name.split(".")[0] for path in site.ignored.iterdir()] == ["1", "1"]


def test_a_report_with_a_wrong_token_or_firework_changes_nothing(site, store):
    fw_id = only(store.add())
    site.launch_one()
    token = store.db.offline_runs.find_one()["fwagent"]["token"]
    drop(site, entry(1, fw_id, "forged"))
    assert "token" in only(site.json("recover")["ignored"])["reason"]
    drop(site, entry(1, fw_id + 1, token))
    assert f"of Firework {fw_id + 1}" in only(site.json("recover")["ignored"])["reason"]
    assert store.state(fw_id) == "RESERVED"
    drop(site, entry(1, fw_id, token))
    assert len(site.json("recover")["applied"]) == 1


def test_a_report_for_a_run_that_was_forgotten_changes_nothing(site, store, stock):
    """`lpad forget_offline`."""
    store.db.offline_runs.update_one({}, {"$set": {"deprecated": True}})
    path = drop(site, entry(stock.launch_id, stock.fw_id, "any"))
    assert "retired" in only(site.json("recover")["ignored"])["reason"]
    assert not path.exists()
    assert store.state(stock.fw_id) == "RESERVED"


# ------------------------------------------------------------- odd content, and its innocent neighbours


def nested(depth):
    value: dict[str, object] = {}
    for _ in range(depth):
        value = {"x": value}
    return value


#: What a task may leave behind, and why it FIZZLES ("": it does not).
ODD_ACTIONS = {
    "deep": ({"stored_data": nested(95)}, "nested deeper than"),
    "a dollar": ({"stored_data": {"$set": {"a.b": 1}}}, ""),
    "a dot": ({"update_spec": {"a.b": {"c.d": 1}}}, ""),
    "an empty key": ({"update_spec": {"": 1}}, ""),
    "a nul in a key": ({"stored_data": {"a\0b": 1}}, "is no usable text"),
    "a large number": ({"stored_data": {"x": 2**70}}, "beyond 64 bits"),
    "half a pair": ({"stored_data": {"x": "\ud800"}}, "half a surrogate pair"),
    "not a number": ({"stored_data": {"x": float("nan"), "y": float("inf")}}, ""),
    "a list for an object": ({"stored_data": []}, "'stored_data' is not an object"),
    "a text for a list": ({"mod_spec": "x"}, "a modifier is an object"),
    "an unknown modifier": ({"mod_spec": [{"_nope": {"x": 1}}]}, "'_nope' is not a modifier"),
    "a modifier that fails": ({"mod_spec": [{"_inc": {"_tasks": 1}}]}, "_inc of '_tasks'"),
    "an unknown key": ({"whatever": 1}, ""),
}


@pytest.mark.parametrize("name", ODD_ACTIONS)
def test_an_odd_action_ends_its_own_launch_and_no_other(site, store, name):
    """Whatever a task returns, its Firework ends one way or the other, and its neighbours are applied."""
    changes, why = ODD_ACTIONS[name]
    odd, child = store.add({}, {}, links={1: [2]})
    neighbour = only(store.add())
    claims = {claim.fw_id: claim for claim in store.stock_launches(site.home, n=2)}
    whole = stock_report(claims[odd])
    in_place(offline_of(claims[odd]), {**whole, "fwaction": {**whole["fwaction"], **changes}})
    in_place(offline_of(claims[neighbour]), stock_report(claims[neighbour]))
    site.json("recover")
    assert store.states() == {
        odd: "FIZZLED" if why else "COMPLETED",
        child: "WAITING" if why else "READY",
        neighbour: "COMPLETED",
    }
    stored = store.launch(claims[odd].launch_id)["action"]
    assert why in stored["stored_data"].get("_message", "")
    assert store.locks() == 0
    assert site.json("recover")["applied"] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"started_on": "yesterday", "completed_on": "tomorrow"},
        {"started_on": "", "completed_on": ""},
        {"completed_on": "0001-01-01T00:00:00+14:00"},
        {"completed_on": "9999-12-31T23:59:59-14:00"},
        {"checkpoint": {"_task_n": 10**30, "$x": "\ud800", "deep": nested(120)}},
        {"fwagent": 5},
        {"fwagent": {"token": None, "attempt": "x"}},
    ],
)
def test_odd_fields_hold_nobody_up(site, store, changes):
    odd, neighbour = only(store.add()), only(store.add())
    claims = {claim.fw_id: claim for claim in store.stock_launches(site.home, n=2)}
    in_place(offline_of(claims[odd]), {**stock_report(claims[odd]), **changes})
    in_place(offline_of(claims[neighbour]), stock_report(claims[neighbour]))
    done = site.run("recover", "--json", status=None)
    assert done.status in (0, 3)
    assert store.state(neighbour) == "COMPLETED"
    if done.status == 0:
        assert store.state(odd) == "COMPLETED"
    else:
        assert only(done.json["deferred"])["launch_id"] == claims[odd].launch_id
        assert store.state(odd) == "RESERVED"
    assert store.locks() == 0


# --------------------------------------------------------------------------------- a lot of rubbish


def test_thousands_of_junk_files_in_the_outbox_hold_nobody_up(site, store, stock):
    site.outbox.mkdir(parents=True)
    junk = [b"", b"{", b"[]", b"\xff", b'{"launch_id": 7}', b"null"]
    for number in range(3000):
        (site.outbox / f"{number}.junk.json").write_bytes(junk[number % len(junk)])
    path = drop(site, entry(stock.launch_id, stock.fw_id, "any"))
    site.configure(sync={"outbox_interval": 0.3})
    with site.daemon() as daemon:
        daemon.wait_for("applied", launch_id=stock.launch_id, state="COMPLETED")
        wait_until(lambda: not path.exists())
        assert site.json("status")["backlog"]["reports"] == 3000
    assert len(list(site.outbox.iterdir())) == 3000
    assert len(daemon.log) < 20, daemon.tail()


def test_a_launch_directory_that_goes_away_at_any_time_holds_nobody_up(site, store):
    for _ in range(3):
        store.add()
    claims = store.stock_launches(site.home, n=3)
    site.configure(sync={"sweep_interval": 0.2})
    with site.daemon() as daemon:
        site.await_first_pass()
        shutil.rmtree(claims[0].launch_dir)
        in_place(offline_of(claims[1]), stock_report(claims[1]))
        daemon.wait_for("applied", launch_id=claims[1].launch_id, state="COMPLETED")
        told = daemon.wait_for("deferred", launch_id=claims[0].launch_id)
        assert "no FW_offline.json" in told["reason"]
        # It was only out of sight for a while, like a file server.
        Path(claims[0].launch_dir).mkdir()
        write_atomic(str(offline_of(claims[0])), stock_report(claims[0]))
        daemon.wait_for("applied", launch_id=claims[0].launch_id, state="COMPLETED")
    assert store.states()[claims[2].fw_id] == "RESERVED"
    assert not [line for line in daemon.log if line["level"] == "error"]


def test_a_launch_root_that_is_full_of_other_things(site, store):
    fw_id = only(store.add())
    site.root.mkdir()
    (site.root / "block_of_notes.txt").write_text("mine", encoding="utf-8")
    (site.root / "block_zzz").symlink_to("nowhere")
    assert site.launch_one()["fw_id"] == fw_id
