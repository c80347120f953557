"""The agent as a user has it: a configuration file, the command ``fwagent``, and the daemon as a process.

Nothing here waits for a fixed time: `Daemon.wait_for` reads the log, one JSON object per line, until what is
wanted has been said or the deadline is over. Every line of the log must be such an object, so a traceback, a
warning of a library or a stray print fails the test that meets it.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo.database import Database

from agent.health import read_status
from agent.mongod import Mongod
from fwcore import documents
from fwcore.launchpad import LaunchPad
from fwcore.launchpad.records import Claim
from fwcore.worker import Worker
from fwrunner.protocol import FW_JSON, OFFLINE_JSON, OUTBOX_PATH, timestamp
from tests.support.mongod import write_launchpad_file

Document = dict[str, Any]

#: The command as it is installed, beside the Python that runs the tests.
FWAGENT = [str(Path(sys.executable).with_name("fwagent"))]
DEADLINE = 20.0
WORKER = "test-worker"
TASKS = [{"_fw_name": "ScriptTask", "script": "true"}]

#: What the tests give a configuration unless they say otherwise: no timer fires by itself.
NEVER = 86400
_QUIET = {"sweep_interval": NEVER, "outbox_interval": NEVER, "reserve_interval": NEVER}
#: The same for those that `make test` runs once more, with all events lost.
_NO_EVENTS = {"events": False, "sweep_interval": 0.5, "outbox_interval": 0.3}
WITHOUT_EVENTS = os.environ.get("FWAGENT_TEST_EVENTS") == "no"

# Becomes fwagent with a lease that is worth waiting for.
_SHORT_LEASE = """\
import agent.lease, agent.loop
agent.lease.LEASE_SECONDS = 1.5
agent.lease.RENEW_SECONDS = agent.loop.RENEW_SECONDS = 0.3
from agent.cli import main
main()
"""
SHORT_LEASE = [sys.executable, "-c", _SHORT_LEASE]


_FORK_COMMANDS = """\
import json, os, sys
import agent.cli.look, agent.cli.show, agent.cli.work, agent.loop, agent.status, typer.rich_utils
from agent.cli import main
for line in sys.stdin:
    job = json.loads(line)
    child, status = os.fork(), 1
    if child == 0:
        os.environ.clear()
        os.environ.update(job["environment"])
        os.chdir(job["home"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, path in enumerate(job["printed"], 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.argv = ["fwagent", *job["arguments"]]
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # the threads of pymongo take half a second to end by themselves
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Done:
    """What a command printed and how it ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Document:
        """The one JSON object on stdout, and nothing else there."""
        found = json.loads(self.stdout)
        assert isinstance(found, dict), self.stdout
        return found


class Site:
    """One user on one login node: a launch root, a configuration, and a database."""

    def __init__(self, home: Path, server: Mongod, db_name: str, worker: str = WORKER) -> None:
        self.home = home
        self.server = server
        self.db_name = db_name
        self.worker = worker
        self.root = home / "fireworks"
        self.config = home / "config.toml"
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FWAGENT_", "CREDENTIALS_"))
        }
        self.environment.update(HOME=str(home), COLUMNS="200", NO_COLOR="1", FWAGENT_LOG="json")
        home.mkdir(parents=True, exist_ok=True)
        self.configure()

    def configure(self, **sections: Mapping[str, Any]) -> Path:
        """Write the configuration; what is given is added to each section, None takes a key away."""
        tree: dict[str, dict[str, Any]] = {
            "launchpad": {"uri": self.server.uri, "name": self.db_name},
            "worker": {"name": self.worker},
            "launch": {"root": str(self.root)},
            "queue": {"type": "none"},
            "sync": {**_QUIET, **(_NO_EVENTS if WITHOUT_EVENTS else {})},
        }
        for section, keys in sections.items():
            tree.setdefault(section, {}).update(keys)
        return write_toml(self.config, tree)

    def impatient_launchpad(self, milliseconds: int = 400) -> dict[str, Any]:
        """A ``[launchpad]`` whose ``my_launchpad.yaml`` bounds the waits for the database."""
        path = write_launchpad_file(self.home / "my_launchpad.yaml", self.server, self.db_name)
        limits = dict.fromkeys(("serverSelectionTimeoutMS", "connectTimeoutMS"), milliseconds)
        limits["socketTimeoutMS"] = 1000
        text = path.read_text(encoding="utf-8")
        text = text.replace("mongoclient_kwargs: {}", f"mongoclient_kwargs: {json.dumps(limits)}")
        path.write_text(text, encoding="utf-8")
        return {"file": str(path), "uri": None, "name": None}

    # --------------------------------------------------------------------------- the commands

    def run(
        self,
        *arguments: object,
        status: int | None = 0,
        config: bool = True,
        fresh: bool = False,
    ) -> Done:
        """Run ``fwagent``; ``status`` is the exit status it must have (None: any).

        ``fresh`` starts the installed command; else its ``main`` runs in a process that was forked from
        one with all imports done, which takes a tenth of the time.
        """
        chosen = ["--config", str(self.config)] if config else []
        start = _start_fresh if fresh else _nursery().run
        done = start([*chosen, *map(str, arguments)], self.environment, self.home)
        assert status in (None, done.status), done
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *arguments: object, status: int | None = 0) -> Document:
        """Run ``fwagent ... --json``; return its object."""
        return self.run(*arguments, "--json", status=status).json

    def launch_one(self, *arguments: object) -> Document:
        """Run ``fwagent launch -n 1``; return what was claimed."""
        (claim,) = self.json("launch", "-n", 1, *arguments)["claimed"]
        assert isinstance(claim, dict)
        return claim

    @contextmanager
    def daemon(
        self, *options: str, command: Sequence[str] = FWAGENT, serving: bool = True
    ) -> Iterator[Daemon]:
        """``fwagent run``, until the block is left; it must then end well by SIGTERM, if it still runs."""
        daemon = Daemon([*command, "--config", str(self.config), "run", *options], self)
        try:
            if serving:
                daemon.wait_for("serving")
            yield daemon
            if daemon.running:
                daemon.terminate()
        finally:
            daemon.kill()
        assert not daemon.noise, f"not a JSON log: {daemon.noise}"

    def await_first_pass(self) -> None:
        """Wait until a daemon has looked at everything once, so that its watches are set."""
        wait_until(lambda: self.told().get("passes", 0) > 0)

    def told(self) -> Document:
        """Return what the status file tells, {} if there is none."""
        found = [read_status(each.parent) for each in self.own("status.json")]
        return (found and found[0]) or {}

    # ---------------------------------------------------------------------- the compute nodes

    def own(self, name: str) -> list[Path]:
        """Return a file that the agent of this worker keeps for itself, if it is there."""
        return list(self.root.glob(f".fwagent/{self.worker}-????????/{name}"))

    @property
    def outbox(self) -> Path:
        return self.root / OUTBOX_PATH

    @property
    def ignored(self) -> Path:
        """Where reports go that are nobody's here."""
        return self.outbox.parent / "ignored"

    def fwrunner(self, launch_dir: str | Path) -> Done:
        """Run the Firework of a launch directory, as a job does."""
        done = subprocess.run(
            [sys.executable, "-m", "fwrunner", str(launch_dir)],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)


def _start_fresh(arguments: list[str], environment: Mapping[str, str], home: Path) -> Done:
    done = subprocess.run(
        [*FWAGENT, *arguments],
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class _Nursery:
    """A process that has imported everything, and forks for each command."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _FORK_COMMANDS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments: list[str], environment: Mapping[str, str], home: Path) -> Done:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            printed = [Path(folder, name) for name in ("stdout", "stderr")]
            job = {"arguments": arguments, "environment": dict(environment), "home": str(home)}
            try:
                stdin.write(json.dumps({**job, "printed": [str(path) for path in printed]}) + "\n")
                stdin.flush()
                status = int(stdout.readline())
            except BaseException:  # a test was given up: its command must not answer the next one
                self.close()
                raise
            return Done(status, *(path.read_text(encoding="utf-8") for path in printed))

    def close(self) -> None:
        _nursery.cache_clear()
        with self._process as process:
            process.kill()


@functools.cache
def _nursery() -> _Nursery:
    nursery = _Nursery()
    atexit.register(nursery.close)
    return nursery


class Daemon:
    """A running ``fwagent run``."""

    def __init__(self, command: Sequence[str], site: Site) -> None:
        self._process = subprocess.Popen(
            command,
            env=site.environment,
            cwd=site.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        #: What has been logged so far, and what was printed besides.
        self.log: list[Document] = []
        self.noise: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._seen = 0

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                with self._news:
                    self._take(line)
                    self._news.notify_all()
        with self._news:
            self._reader_ended = True
            self._news.notify_all()

    _reader_ended = False

    def _take(self, line: str) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            self.noise.append(line)
        else:
            self.log.append(entry)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def logged(self, event: str, **fields: Any) -> list[Document]:
        """Return all entries so far with this event and these fields."""
        with self._news:
            return [entry for entry in self.log if _is(entry, event, fields)]

    def wait_for(self, event: str, *, timeout: float = DEADLINE, **fields: Any) -> Document:
        """Return the next entry with this event and these fields, after those returned before."""
        what = f"{event!r} with {fields}"
        return self._await(lambda entry: _is(entry, event, fields), what, timeout)

    def wait_for_error(self, words: str, *, timeout: float = DEADLINE) -> Document:
        """Return the next error whose text has these words."""
        return self._await(
            lambda entry: entry["level"] == "error" and words in entry["event"],
            f"error {words!r}",
            timeout,
        )

    def _await(self, wanted: Callable[[Document], bool], what: str, timeout: float) -> Document:
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                for position in range(self._seen, len(self.log)):
                    if wanted(self.log[position]):
                        self._seen = position + 1
                        return self.log[position]
                left = deadline - time.monotonic()
                if left <= 0 or self._reader_ended:
                    raise AssertionError(f"no {what} in {timeout} s: {self.tail()}")
                self._news.wait(left)

    def tail(self) -> str:
        """The end of the log, for messages."""
        return "\n".join(["", *map(str, self.log[-15:]), *self.noise[-15:]])

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def reload(self) -> None:
        self.send(signal.SIGHUP)

    def terminate(self, timeout: float = 5.0) -> float:
        """SIGTERM; return the seconds it took to end, which must be with status 0."""
        before = time.monotonic()
        self.send(signal.SIGTERM)
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs {timeout} s after SIGTERM: {self.tail()}") from None
        self._reader.join(timeout=5)
        assert status == 0, self.tail()
        return time.monotonic() - before

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self.running:
            self.send(signal.SIGKILL)
        self._process.wait()
        self._reader.join(timeout=5)


def _is(entry: Document, event: str, fields: Mapping[str, Any]) -> bool:
    return entry.get("event") == event and all(
        key in entry and entry[key] == value for key, value in fields.items()
    )


def wait_until(
    condition: Callable[[], object],
    seconds: float = DEADLINE,
    told: Callable[[], str] = lambda: "",
) -> None:
    """Ask again and again, for what no log tells; ``told`` is for the message of a failure."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true after {seconds} s{told()}"
        time.sleep(0.02)


# -------------------------------------------------------------------------------- the database


class Store:
    """The documents of one database, and what other programs than ours do to them."""

    def __init__(self, launchpad: LaunchPad, database: Database[Document]) -> None:
        self.launchpad = launchpad
        self.db = database

    def add(
        self, *specs: Mapping[str, Any], links: Mapping[int, list[int]] | None = None
    ) -> list[int]:
        """Add a workflow of Fireworks numbered from 1; return their fw_ids."""
        fws = [
            {"fw_id": number, "name": f"fw{number}", "spec": {"_tasks": TASKS, **spec}}
            for number, spec in enumerate(specs or ({},), 1)
        ]
        return list(self.launchpad.add({"fws": fws, "links": links or {}}).values())

    def state(self, fw_id: int) -> str:
        """The state of a Firework; the copy in its workflow must be, or become, the same."""
        states: list[str] = []

        def agree() -> bool:
            firework = self.db.fireworks.find_one({"fw_id": fw_id})
            workflow = self.db.workflows.find_one({"nodes": fw_id})
            assert firework is not None
            assert workflow is not None
            states.append(str(firework["state"]))
            return bool(workflow["fw_states"][str(fw_id)] == firework["state"])

        wait_until(agree)
        return states[-1]

    def states(self) -> dict[int, str]:
        return {fw["fw_id"]: self.state(fw["fw_id"]) for fw in self.db.fireworks.find()}

    def launch(self, launch_id: int) -> Document:
        found = self.db.launches.find_one({"launch_id": launch_id})
        assert found is not None
        return found

    def locks(self) -> int:
        """How many workflows are locked."""
        return self.db.workflows.count_documents({"locked": {"$exists": True}})

    def stock_launches(self, parent: Path, worker: str = WORKER, n: int = 1) -> list[Claim]:
        """Reserve as `qlaunch -r` with an offline rlaunch does: nothing of ours in files or documents."""
        claims = self.launchpad.claim(
            Worker(worker), n, place=lambda _fw, number: str(parent / f"launcher_{number}")
        )
        for claim in claims:
            launch_dir = Path(claim.launch_dir)
            launch_dir.mkdir(parents=True)
            in_place(launch_dir / FW_JSON, claim.firework)
            in_place(launch_dir / OFFLINE_JSON, {"launch_id": claim.launch_id})
            launch = {"fw_id": claim.fw_id, "launch_id": claim.launch_id}
            run = documents.new_offline_run(
                launch, claim.firework["name"], "", self.launchpad.now()
            )
            del run["fwagent"]
            self.db.offline_runs.insert_one(run)
        return claims

    def rerun(self, fw_id: int) -> None:
        """`lpad rerun_fws`: its launches are archived, and it is READY again."""
        firework = self.db.fireworks.find_one({"fw_id": fw_id})
        assert firework is not None
        self.db.fireworks.update_one(
            {"fw_id": fw_id},
            {"$set": {"state": "READY", "launches": [], "archived_launches": firework["launches"]}},
        )
        self.db.workflows.update_one({"nodes": fw_id}, {"$set": {f"fw_states.{fw_id}": "READY"}})


def in_place(path: Path, document: Mapping[str, Any]) -> None:
    """Write as FireWorks does: truncate, then write."""
    path.write_text(json.dumps(document), encoding="utf-8")


def stock_report(claim: Claim, state: str = "COMPLETED", **action: Any) -> Document:
    """What stock ``rlaunch singleshot --offline`` has in ``FW_offline.json`` at the end."""
    whole = {
        "stored_data": {}, "exit": False, "update_spec": {}, "mod_spec": [], "additions": [],
        "detours": [], "defuse_children": False, "defuse_workflow": False, "append_wfs": [],
        "propagate": False,
    }  # fmt: skip
    return {
        "launch_id": claim.launch_id,
        "started_on": timestamp(),
        "checkpoint": None,
        "fwaction": {**whole, **action},
        "state": state,
        "completed_on": timestamp(),
    }


# -------------------------------------------------------------------------------- the configuration


def write_toml(path: Path, tree: Mapping[str, Mapping[str, Any]], mode: int = 0o600) -> Path:
    """Write sections of keys; None leaves a key out."""
    lines: list[str] = []
    for section, keys in tree.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {_toml(value)}" for key, value in keys.items() if value is not None]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    path.chmod(mode)
    return path


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
