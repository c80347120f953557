"""README and docs/: every `fwagent ...` in them parses, what can run on a database runs, links lead somewhere."""

import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support import components
from tests.support.agent import FWAGENT, Site, Store, wait_until
from tests.support.calls import command_line, parsed

ROOT = Path(__file__).parents[2]
MOVING = ROOT / "docs" / "moving-from-cron.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: What stands for something in the docs, and a thing of this kind.
THINGS = {
    **dict.fromkeys(("FW_ID", "FW_ID...", "ID"), "1"),
    **dict.fromkeys(("DIR", "DIR...", "NEW_DIR"), "a_directory"),
    "PATH": "fwrunner.pyz",
    **dict.fromkeys(("FILE", "FILE...", "FW_job.error"), "workflow.json"),
    "NAME": "other",
    "DEFUSED": "DEFUSED",
}
#: Those that end by themselves and touch nothing but the database and the launch root.
RUN = {
    *("sync", "recover", "launch", "add", "unlock", "status", "runs", "doctor", "explain", "dirs"),
    *("register", "unregister", "rerun", "defuse", "forget", "report", "runner export"),
}
ASKING = {"rerun", "defuse", "forget", "unlock"}
NEEDY = {*ASKING, "explain", "register", "unregister", "add", "runner export"}

_CODE = re.compile(r"`([^`]+)`")
_CALL = re.compile(r"(?:^|[\s'/(])(?<!-unit )fwagent ((?:-|[a-z]).*)")


def calls(text: str) -> list[str]:
    """Return what follows `fwagent` in the code of a page: of indented lines, and between backticks."""
    lines = text.splitlines()
    code = [
        piece
        for line in lines
        for piece in ([line.strip()] if line.startswith("    ") else _CODE.findall(line))
    ]
    matches = filter(None, map(_CALL.search, code))
    return [re.split(r"\s+#|[|;']|\s*>>?|,| && ", match[1])[0].strip() for match in matches]


def words_of(call: str) -> list[str]:
    """Return the arguments of a call, with things for what stands for them."""
    found = []
    for word in shlex.split(call):
        key, sign, value = word.partition("=")
        found.append(f"{key}={THINGS.get(value, value)}" if sign else THINGS.get(word, word))
    return found


ALL = sorted({(page.name, call) for page in PAGES for call in calls(page.read_text("utf-8"))})


def test_there_are_calls():
    assert len(ALL) > 60
    assert calls("    */5 * * * *  $HOME/bin/fwagent sync >>$HOME/log 2>&1") == ["sync"]
    assert calls("`journalctl --user-unit fwagent -p warning`") == []
    assert calls("a `fwagent runs -s X`, `lpad`; fwagent no") == ["runs -s X"]


@pytest.mark.parametrize(("page", "call"), ALL)
def test_a_call_parses(page, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workflow.json").write_text("{}")
    words = words_of(call)
    if words in (["--version"], ["--install-completion"], ["--show-completion"]):
        assert any(words[0] in option.opts for option in command_line().params)
        return
    name, _context = parsed(words)
    assert name


def test_a_call_that_is_wrong_does_not_parse():
    for call in ("no-such", "runs --no-such", "explain seven", "runner no"):
        with pytest.raises(Exception, match=r"No such|valid integer"):
            parsed(words_of(call))


def test_calls_run(mongod, lp_name, lp, db, tmp_path):
    site = Site(tmp_path / "home", mongod, lp_name)
    Store(lp, db).add(*({} for _ in range(12)))
    claim = site.launch_one()
    site.fwrunner(claim["launch_dir"])
    shutil.copytree(claim["launch_dir"], site.home / "a_directory")
    tasks = '{"spec": {"_tasks": [{"_fw_name": "ScriptTask", "script": "true"}]}}'
    (site.home / "workflow.json").write_text(tasks, encoding="utf-8")
    ran = set()
    for words in sorted({tuple(words_of(call)) for _page, call in ALL}):
        name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in RUN), "")
        named_only = name in NEEDY and " ".join(words) == name
        if not name or named_only or "--watch" in words:
            continue
        places = [word.replace("~/", f"{site.home}/") for word in words]
        more = ["--yes"] if name in ASKING else []
        done = site.run(*places, *more, status=None)
        assert done.status in (0, 1, 3), (words, done)
        ran.add(name)
    assert ran >= RUN - {"defuse", "unregister"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith("http"):
            continue
        name, _, part = target.partition("#")
        place = (page.parent / name) if name else page
        assert place.exists(), target
        if part:
            titles = re.findall(r"^#+ (.+)$", place.read_text("utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert part in slugs, target


def test_two_syncs_at_once(mongod, lp_name, lp, db, tmp_path):
    """As docs/moving-from-cron.md says of cron: nothing is done twice, and the second one says who is at work."""
    site = Site(tmp_path / "home", mongod, lp_name)
    site.configure(queue={"type": "none"}, launch={"max_queued": 40})
    store = Store(lp, db)
    store.add(*({} for _ in range(40)))
    ran = [site.launch_one()]
    for claim in ran:
        site.fwrunner(claim["launch_dir"])
    command = [*FWAGENT, "--config", str(site.config), "sync", "--json"]
    both = [
        subprocess.Popen(command, env=site.environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = [process.communicate(timeout=60)[0] for process in both]
    assert {process.returncode for process in both} <= {0, 3}
    assert any(process.returncode == 0 for process in both), ends
    assert {store.state(claim["fw_id"]) for claim in ran} == {"COMPLETED"}
    launches = list(db.launches.find({}, {"fw_id": 1}))
    assert len(launches) == len({launch["fw_id"] for launch in launches}) == 40
    assert db.offline_runs.count_documents({}) == 40
    assert store.locks() == 0


def test_in_tmux(mongod, lp_name, lp, db, tmp_path):
    """The line of docs/moving-from-cron.md: it launches with nobody attached, and Ctrl-C ends it well."""
    if shutil.which("tmux") is None:
        components.unavailable("no tmux: tests/install-system-packages installs it as root")
    (line,) = re.findall(r"^ {4}(tmux new-session .*)$", MOVING.read_text("utf-8"), re.MULTILINE)
    site = Site(tmp_path / "home", mongod, lp_name)
    (fw_id,) = Store(lp, db).add({})
    # The path of a socket is short.
    with tempfile.TemporaryDirectory(prefix="fwagent-", dir="/tmp") as sockets:
        path = f"{Path(FWAGENT[0]).parent}:{site.environment['PATH']}"
        more = {"TMUX_TMPDIR": sockets, "FWAGENT_CONFIG": str(site.config), "PATH": path}
        environment = {**site.environment, **more, "TERM": "dumb"}

        def tmux(*words):
            done = subprocess.run(
                words, env=environment, cwd=site.home, capture_output=True, timeout=30, check=False
            )
            return done.returncode == 0

        try:
            assert tmux(*shlex.split(line))
            site.await_first_pass()
            wait_until(lambda: Store(lp, db).state(fw_id) == "RESERVED")
            assert tmux("tmux", "send-keys", "-t", "fwagent", "C-c")
            wait_until(lambda: not tmux("tmux", "has-session", "-t", "fwagent"))
            told = site.told()
            assert told is not None
            assert told["mode"] == "stopped"
        finally:
            tmux("tmux", "kill-server")
