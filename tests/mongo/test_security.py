"""TLS, authentication, a role with the least rights; what others can read; what listens; and no password anywhere."""

import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bson import json_util

from fwcore.errors import DatabaseRefused, DatabaseUnreachable, InvalidSettings
from fwcore.launchpad import LaunchPad
from tests.support.agent import Site, wait_until
from tests.support.secure import ADMIN_PASSWORD, ESCAPED, PASSWORD, USER, Secure, secure_server

PAGE = Path(__file__).parents[2] / "docs/security.md"
DATABASE = "fireworks"


@pytest.fixture(scope="module")
def secure(mongod_binary, tmp_path_factory) -> Iterator[Secure]:
    with secure_server(tmp_path_factory.mktemp("secure"), mongod_binary) as server:
        with server.admin() as admin:
            admin.admin.command("createRole", "fwagent", **documented_role())
            admin.admin.command("createUser", USER, pwd=PASSWORD, roles=["fwagent"])
        yield server


def documented_role():
    """The role as the page has it."""
    (script,) = re.findall(
        r"createRole\((\{.*?\n\})\)", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    role = json.loads(re.sub(r"(\w+):", r'"\1":', script))
    assert role.pop("role") == "fwagent"
    return role


@pytest.fixture
def site(secure, tmp_path):
    site = Site(tmp_path / "home", secure.server, DATABASE)
    uri = site.home / "uri"
    uri.write_text(secure.uri(), encoding="utf-8")
    uri.chmod(0o600)
    site.configure(launchpad={"uri": None, "uri_file": str(uri)}, queue={"type": "local"})
    return site


# ------------------------------------------------------------------------------------- what is refused


def ask(uri, timeout):
    launchpad = LaunchPad.from_uri(uri, DATABASE, timeout=timeout)
    try:
        launchpad.check()
    finally:
        launchpad._db.client.close()


def asked(uri, timeout=0.3):
    """Ask a database something; return the error, in which there is no secret."""
    with pytest.raises((DatabaseRefused, DatabaseUnreachable, InvalidSettings)) as caught:
        ask(uri, timeout)
    error = caught.value
    for secret in ("s3cr3t", ESCAPED):
        assert secret not in f"{error.title} {error.hint}"
    return error


@pytest.mark.parametrize(
    ("how", "kind", "words", "hint"),
    [
        ({"password": "wrong-s3cr3t"}, DatabaseRefused, "Authentication failed", "authSource"),
        ({"source": "other"}, DatabaseRefused, "Authentication failed", "authSource"),
        ({"options": "tls=true&tlsCAFile={other_ca}"}, DatabaseUnreachable, "certificate verify failed", "tlsCAFile="),
        ({"options": "tls=true"}, DatabaseUnreachable, "certificate verify failed", "tlsCAFile="),
        ({"options": "retryWrites=true"}, DatabaseUnreachable, "connection closed", "tls=true"),
        ({"password": "ab@s3cr3t/x"}, InvalidSettings, "cannot be understood", "%2F for /"),
        ({"options": "tls=true&tlsCAFile=/gone.pem"}, InvalidSettings, "/gone.pem", "PEM files"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_what_to_do(secure, how, kind, words, hint):
    if "options" in how:
        how = {**how, "options": how["options"].format(other_ca=secure.other_ca)}
    error = asked(secure.uri(**how))
    assert isinstance(error, kind)
    assert words in error.title
    assert hint in error.hint
    assert "_ssl.c" not in error.title
    assert "timeouts" not in error.title


def test_a_server_without_tls(mongod):
    error = asked(f"mongodb://{mongod.address}/?tls=true")
    assert "leave tls=true out" in error.hint, error.title


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://u:ab@s3cr3t/x@h:27017/",
        "mongodb://u:s3cr3t/x@h:27017/fw",
        "mongodb://u:1/s3cr3t?d@h/",
        "mongodb+srv://u:a@s3cr3t/@h/",
    ],
)
def test_a_password_that_is_not_escaped_is_not_taken_for_a_host(uri):
    assert "%2F for /" in asked(uri).hint


@pytest.mark.parametrize(
    "uri",
    ["mongodb://h/?appName=a@b", "mongodb://u%40x:p%2F@h:1,i:2/fw?authSource=a@b", "mongodb://h"],
)
def test_what_is_escaped_is_taken(uri):
    LaunchPad.from_uri(uri, "x").close()


def test_a_certificate_that_has_expired_or_is_for_another_name(secure):
    tls = f"tls=true&tlsCAFile={secure.ca}"
    with secure.certified("127.0.0.1", expired=True) as address:
        error = asked(f"mongodb://{USER}:{ESCAPED}@{address}/?{tls}")
        assert "certificate has expired" in error.title
        assert "renew" in error.hint
    with secure.certified("db.example.org") as address:
        error = asked(f"mongodb://{USER}:{ESCAPED}@{address}/?{tls}")
        assert "mismatch" in error.title
        assert "host name" in error.hint


def test_tls_where_the_server_has_none(mongod):
    error = asked(f"mongodb://{mongod.address}/?tls=true")
    assert "no TLS there" in error.hint


def test_without_a_user_or_a_right(secure):
    tls = f"tls=true&tlsCAFile={secure.ca}"
    error = asked(f"mongodb://{secure.server.address}/?{tls}", timeout=5)
    assert "requires authentication" in error.title
    assert "docs/security.md" in error.hint
    launchpad = LaunchPad.from_uri(secure.uri(), "another", timeout=5)
    with pytest.raises(DatabaseRefused, match="not authorized") as caught:
        launchpad.check()
    assert "docs/security.md" in caught.value.hint
    launchpad.close()


# --------------------------------------------------------------------------- a user with the least rights


# Becomes fwagent for which every result is too large for a document, and which answers soon.
_SMALL_DOCUMENTS = """\
import agent.lease, agent.loop
from fwcore.launchpad import gridfiles
agent.lease.RENEW_SECONDS = agent.loop.RENEW_SECONDS = 0.3
gridfiles.LARGEST = 10_000
from agent.cli import main
main()
"""
SMALL_DOCUMENTS = [sys.executable, "-c", _SMALL_DOCUMENTS]


def test_all_of_it_works_with_the_documented_role_and_nothing_more_is_asked_for(secure, site):
    big = 'python3 -c \'import json; json.dump({"stored_data": {"x": "y" * 20_000}}, open("FWAction.json", "w"))\''
    workflow = site.home / "wf.yaml"
    script = {"_fw_name": "ScriptTask", "script": big}
    fails = {"_fw_name": "ScriptTask", "script": "exit 1", "fizzle_bad_rc": True}
    fws = [
        {"fw_id": number, "name": f"fw{number}", "spec": {"_tasks": [task]}}
        for number, task in ((1, script), (2, fails), (3, fails))
    ]
    workflow.write_text(json.dumps({"fws": fws, "links": {"1": [2, 3]}}), encoding="utf-8")
    outputs = [site.run("add", workflow)]
    with site.daemon("--verbose", command=SMALL_DOCUMENTS) as daemon:
        wait_until(lambda: len(daemon.logged("applied", state="FIZZLED")) == 2)
        assert listening(daemon.pid) == []
        outputs.append(site.run("doctor", "--json", status=None))
        outputs += [site.run(command) for command in ("status", "runs", "dirs", "report", "drain")]
        outputs.append(site.run("explain", 2))
        outputs.append(site.run("rerun", "-i", 2))
        outputs.append(site.run("defuse", "-i", 3))
        outputs.append(site.run("unlock", 3))
        outputs.append(site.run("stop"))
        wait_until(lambda: not daemon.running)
    outputs.append(site.run("resume"))
    outputs.append(site.run("launch"))
    wait_until(lambda: len(list(site.outbox.glob("*.json"))) > 0)
    wait_until(lambda: site.json("recover", status=None)["applied"] or None)
    outputs.append(site.run("sync"))
    log = secure.server.log.read_text(encoding="utf-8")
    denied = [line for line in log.splitlines() if "not authorized on fireworks" in line]
    assert not denied
    doctor = outputs[1].json
    verdicts = {check["title"]: check["verdict"] for check in doctor["checks"]}
    assert {
        verdicts[title]
        for title in ("database", "writable", "indexes", "LaunchPad")
        if title in verdicts
    } == {"pass"}
    with secure.admin() as admin:
        database = admin[DATABASE]
        states = {fw["fw_id"]: fw["state"] for fw in database.fireworks.find()}
        assert states == {1: "COMPLETED", 2: "FIZZLED", 3: "DEFUSED"}
        assert database["fw_gridfs.files"].count_documents({}) == 1
        assert "fwagent_probe" not in database.list_collection_names()
        stored = "".join(
            json_util.dumps(list(database[name].find()))
            for name in database.list_collection_names()
            if not name.endswith(".chunks")
        )
    written = "".join(
        path.read_text(encoding="utf-8", errors="replace")
        for path in site.root.rglob("*")
        if path.is_file() and path.stat().st_size < 1_000_000
    )
    told = "".join(done.stdout + done.stderr for done in outputs) + str(daemon.log)
    for text in (told, written, stored):
        assert text
        for secret in (PASSWORD, ESCAPED, ADMIN_PASSWORD, "s3cr3t"):
            assert secret not in text


LISTEN = "0A"


def listening(pid):
    """The sockets that a process, or a child of it, listens on."""
    table = []
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        rows = Path(f"/proc/{pid}/net/{kind}").read_text(encoding="ascii").splitlines()[1:]
        fields = [row.split() for row in rows]
        table += [(kind, row[1], row[9]) for row in fields if row[3] == LISTEN or kind[:3] == "udp"]
    for row in Path(f"/proc/{pid}/net/unix").read_text(encoding="ascii").splitlines()[1:]:
        _at, _count, _protocol, flags, _type, _state, inode, *path = row.split()
        if flags == "00010000":
            table.append(("unix", " ".join(path), inode))
    descriptors = Path(f"/proc/{pid}/fd").iterdir()
    ours = {str(path.readlink()) for path in descriptors if path.is_symlink()}
    assert any(link.startswith("socket:") for link in ours), "it is connected to the database"
    return [entry for entry in table if f"socket:[{entry[2]}]" in ours]


def test_one_that_listens_is_seen(tmp_path):
    import socket

    with (
        socket.create_server(("127.0.0.1", 0)),
        socket.socket(socket.AF_UNIX) as local,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        local.bind(str(tmp_path / "s"))
        local.listen()
        datagrams.bind(("127.0.0.1", 0))
        assert sorted(kind for kind, *_ in listening(os.getpid())) == ["tcp", "udp", "unix"]


# ------------------------------------------------------------------------------------- who may read


@pytest.mark.parametrize(("group", "mode"), [(False, 0o700), (True, 0o750)])
def test_what_others_can_read(mongod, lp_name, lp, tmp_path, group, mode):
    site = Site(tmp_path / "home", mongod, lp_name)
    site.configure(launch={"group_readable": group}, queue={"type": "local"})
    script = {"_fw_name": "ScriptTask", "script": "umask > told; touch made"}
    lp.add({"fws": [{"fw_id": 1, "spec": {"_tasks": [script]}}], "links": {}})
    (claim,) = site.json("launch")["claimed"]
    place = Path(claim["launch_dir"])
    wait_until((place / "FW_action.json").exists)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (site.root, place.parent, place)} == {
        mode
    }
    for name in ("FW.json", "FW_submit.script"):
        assert stat.S_IMODE((place / name).stat().st_mode) & 0o037 == 0
    assert readable_by_group(place / "FW.json") is group
    assert stat.S_IMODE((site.root / ".fwagent").stat().st_mode) == 0o700
    jobs_umask = int((place / "told").read_text(encoding="ascii"), 8)
    assert jobs_umask == own_umask(), "jobs keep theirs"
    assert stat.S_IMODE((place / "made").stat().st_mode) == 0o666 & ~own_umask()


def readable_by_group(path):
    return bool(path.stat().st_mode & stat.S_IRGRP)


def own_umask():
    """The umask of the tests, and of the commands that they start."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
