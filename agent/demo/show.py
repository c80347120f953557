"""The demo from beginning to end.

Everything that is started is stopped again and every file removed, whatever happens: an ExitStack holds
what is to be undone, and the first signal ends the show but not the clean-up.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from signal import Signals

from agent.demo import workflow
from agent.demo.host import (
    Daemon,
    Interrupted,
    end_jobs,
    interruptible,
    network_cut,
    start_server,
    throwaway_server,
    write_config,
)
from agent.demo.screen import AgentLog, Screen
from agent.results import FAILED, OK
from fwcore.errors import FwagentError
from fwcore.launchpad import LaunchPad
from fwrunner.protocol import OUTBOX_PATH

#: Seconds until the demo gives up, the start of the database included.
TIMEOUT = 60.0
#: Seconds for which nothing is under way: whatever there is now, it is the end.
_SETTLED = 3.0
_ACTIVE = {"READY", "RESERVED", "RUNNING"}


def run_demo(uri: str | None, *, keep: bool) -> int:
    """Run the demo; return the exit status, 0 only if the database says what it should."""
    screen = Screen(workflow.NAMES, workflow.EXPECTED)
    with interruptible(), ExitStack() as stack:
        try:
            return _Demo(screen, stack, keep=keep).play(uri)
        except Interrupted as interrupted:
            screen.say(f"{Signals(interrupted.number).name}: cleaning up")
            return 128 + interrupted.number


class _Demo:
    def __init__(self, screen: Screen, stack: ExitStack, *, keep: bool) -> None:
        self._screen = screen
        self._stack = stack
        self._keep = keep
        self._began = time.monotonic()
        self._folder = Path(tempfile.mkdtemp(prefix="fwagent-demo-")).resolve()
        if keep:
            self._say_at_end(f"kept      {self._folder}: configuration, log, launch directories")
        else:
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)

    def play(self, uri: str | None) -> int:
        name = f"fwagent_demo_{token_hex(4)}"
        uri, launchpad = self._open(uri, name)
        cut, trouble = network_cut(self._folder)
        if cut:
            self._screen.say(f"jobs      no network ({' '.join(cut)}), no packages but fwrunner")
        else:
            self._screen.say(f"jobs      WITH the network, which cannot be cut here: {trouble}")
        launchpad.initialize()
        launchpad.add(workflow.document(_address(launchpad)))
        daemon = Daemon(self._folder, write_config(self._folder, uri, name, cut))
        self._stack.callback(end_jobs, self._folder / "launches")
        self._stack.callback(daemon.stop)
        daemon.start()
        log = AgentLog(daemon.log)
        with self._screen.live():
            self._watch(launchpad, daemon, log)
        status = daemon.stop()
        log.read()
        return self._judge(launchpad, log, status, cut_off=bool(cut))

    def _open(self, uri: str | None, name: str) -> tuple[str, LaunchPad]:
        """Return the database, empty and of our own, and the URI of its server."""
        if uri is not None:
            launchpad = LaunchPad.from_uri(uri, name, timeout=5)
            self._stack.callback(launchpad.close)
            if launchpad.collections():
                raise FwagentError(f"the database {launchpad.where} is not empty", "try once more")
            if self._keep:
                self._say_at_end(f"kept      the database {launchpad.where}")
            else:
                self._stack.callback(launchpad.drop)
            self._screen.say(f"database  {launchpad.where}, a new one")
            return uri, launchpad
        server = throwaway_server(self._folder)
        if self._keep:
            data = server.directory / "data"
            again = shlex.join(
                [str(server.binary), "--dbpath", str(data), "--port", str(server.port)]
            )
            self._say_at_end(f"kept      the database {name}; its server, once more:\n{again}")
        self._stack.callback(server.stop)
        start_server(server, self._left)
        self._screen.say(f"database  a throwaway mongod on {server.address}")
        launchpad = LaunchPad.from_uri(server.uri, name, timeout=5)
        self._stack.callback(launchpad.close)
        return server.uri, launchpad

    def _say_at_end(self, text: str) -> None:
        self._stack.callback(self._screen.say, text)

    @property
    def _left(self) -> float:
        return max(0.0, self._began + TIMEOUT - time.monotonic())

    def _watch(self, launchpad: LaunchPad, daemon: Daemon, log: AgentLog) -> None:
        """Show what the database says until it is the end, or nothing more happens."""
        settled = time.monotonic()
        while time.monotonic() < settled + _SETTLED:
            states = {fw_id: state for fw_id, (state, _) in launchpad.fw_states().items()}
            log.read()
            self._screen.update(states, log)
            done = states == workflow.EXPECTED and not launchpad.open_launches()
            # A report is in the launch directory first: its copy in the outbox may still be on its way.
            if done and not self._in_outbox():
                return
            if _ACTIVE & set(states.values()):
                settled = time.monotonic()
            if daemon.ended is not None:
                title = f"the agent has ended by itself, with exit status {daemon.ended}"
                raise FwagentError(title, _evidence(log))
            if self._left == 0:
                title = f"the workflow is not done after {TIMEOUT:.0f} s"
                raise FwagentError(title, _evidence(log))
            time.sleep(0.1)

    def _in_outbox(self) -> list[str]:
        return sorted(path.name for path in (self._folder / "launches" / OUTBOX_PATH).iterdir())

    def _judge(
        self, launchpad: LaunchPad, log: AgentLog, status: int | None, *, cut_off: bool
    ) -> int:
        stored = {name: launchpad.documents(name) for name in workflow.COLLECTIONS}
        found = workflow.differences(stored, cut_off=cut_off)
        if status != 0:
            found.append(f"the agent has ended with exit status {status}, not 0")
        if left := self._in_outbox():
            found.append(f"reports were left in the outbox: {', '.join(left)}")
        states = {firework["fw_id"]: firework["state"] for firework in stored["fireworks"]}
        self._screen.show_result(states, log)
        self._summarize(stored, log)
        if not found:
            took = time.monotonic() - self._began
            self._screen.say(f"The database says what it should. {took:.1f} s in all", "green")
            return OK
        self._screen.say("The database does not say what it should:", "bold red")
        for difference in found:
            self._screen.say(f"  {difference}")
        self._screen.say(_evidence(log))
        return FAILED

    def _summarize(self, stored: workflow.Stored, log: AgentLog) -> None:
        fitted = {
            name: firework["spec"].get(name)
            for firework in stored["fireworks"]
            for name in workflow.FITTED
            if firework["fw_id"] == workflow.SUMMARY
        }
        self._screen.say("")
        if all(isinstance(value, float) for value in fitted.values()):
            volume, modulus, _energy = fitted.values()
            self._screen.say(
                f"argon     {volume:.2f} cubic angstrom an atom, bulk modulus {modulus:.2f} GPa"
            )
        seen = workflow.result(stored, workflow.RELAX).get("database")
        self._screen.say(f"network   a job that tried to reach the database says: {seen}")
        latencies = log.latencies
        releasing = [latencies[fw_id] for fw_id in log.releasing(workflow.LINKS)]
        self._screen.say_latency("report written -> children READY   ", releasing)
        self._screen.say_latency("report written -> in the database  ", list(latencies.values()))
        self._screen.say(
            "(with file events, as on this host; without them, as on NFS, up to 1 s more)", "dim"
        )


def _address(launchpad: LaunchPad) -> tuple[str, int]:
    """Return host and port of the (first) server, for a job to try."""
    host, _, port = launchpad.where.partition("/")[0].partition(",")[0].rpartition(":")
    return host, int(port) if port.isdigit() else 27017


def _evidence(log: AgentLog) -> str:
    return f"the agent's log says last:\n{log.tail()}"
