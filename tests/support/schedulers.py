"""Real schedulers of the tests' own: Debian's Slurm and Grid Engine, without their services and without root's files.

All that they keep is in one directory; only processes that were started here are ended. A scheduler is skipped loudly
where its packages are missing (`tests/install-system-packages` installs them as root).
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.components import unavailable

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


class Scheduler:
    """Its daemons and its directory. ``environ`` is what clients need beyond their own."""

    environ: dict[str, str]
    #: The command that lists all jobs, for a test that fails.
    jobs: tuple[str, ...] = ()

    def __init__(self) -> None:
        # Sockets have short names.
        self.home = Path(tempfile.mkdtemp(prefix="fwt-", dir="/tmp"))
        self.home.chmod(0o755)
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, *argv: str, check: bool = True, stdin: str = "") -> str:
        """Run one of its commands; return what it prints."""
        done = subprocess.run(
            argv,
            env={**os.environ, **self.environ},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert not check or done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def spawn(self, name: str, *argv: str, env: Mapping[str, str] | None = None) -> None:
        """Start a daemon that stays in the foreground."""
        with (self.home / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                argv,
                env={**os.environ, "PATH": _PATH, **self.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str, number: int = signal.SIGTERM, patience: float = 10) -> None:
        """End a daemon."""
        process = self._daemons.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def alive(self, name: str) -> bool:
        return name in self._daemons and self._daemons[name].poll() is None

    def wait_until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        """Wait for what no scheduler announces."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.05)

    def told(self) -> str:
        """What a wait that has failed tells: the jobs as the scheduler sees them, and its logs."""
        return f"{self.run(*self.jobs, check=False)}\n{self.logs()}"

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        texts = {path.name: path.read_text(errors="replace") for path in self.home.glob("*.log")}
        return "\n".join(f"--- {name}\n{text[-1500:]}" for name, text in texts.items())

    def remove(self) -> None:
        for name in list(self._daemons):
            self.kill(name)
        shutil.rmtree(self.home, ignore_errors=True)


def ports(count: int) -> list[int]:
    """Return free TCP ports of this host."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    numbers = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return numbers


def _need(commands: Sequence[str]) -> None:
    missing = [name for name in commands if shutil.which(name, path=_PATH) is None]
    if missing:
        unavailable(f"no {', '.join(missing)}: `make test` installs it as root on Debian")


# ------------------------------------------------------------------------------------------- Slurm

_SLURM_CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={home}/munge/socket
StateSaveLocation={home}/ctld
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/ctld.pid
SlurmdPidFile={home}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
JobSubmitPlugins=lua
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,default_queue_depth=10000
CompleteWait=0
EpilogMsgTime=0
KillWait=2
MinJobAge=3600
JobRequeue=0
ReturnToService=2
SlurmdTimeout={timeout}
TCPTimeout=5
MessageTimeout=20
NodeName=c1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 State=UP
"""

# A limit of the site, which otherwise needs accounting: sbatch is refused with ESLURM_ACCOUNTING_POLICY.
_LIMIT_LUA = """\
function slurm_job_submit(job, partitions, user)
  local file = io.open("{home}/limit")
  if not file then return slurm.SUCCESS end
  local limit, count = tonumber(file:read("*a")), 0
  file:close()
  for _, other in pairs(slurm.jobs) do
    if other.job_state % 256 < 2 then count = count + 1 end
  end
  return count < limit and slurm.SUCCESS or 2050
end

function slurm_job_modify(job, record, partitions, user)
  return slurm.SUCCESS
end
"""


class Slurm(Scheduler):
    """One node with 8 pretended CPUs. The clock of slurmctld goes ``speedup`` times as fast as the others."""

    jobs = ("squeue", "--all", "--states=all", "--array", "--format=%i %t %r %j %k")

    def __init__(self, speedup: int = 20) -> None:
        super().__init__()
        self.environ = {"SLURM_CONF": str(self.home / "slurm.conf")}
        self._speedup = speedup
        for place in ("ctld", "spool", "munge"):
            (self.home / place).mkdir(mode=0o755)
        values = {
            "host": socket.gethostname().partition(".")[0],
            "user": _user(),
            "home": self.home,
        }
        text = _SLURM_CONF.format(**values, ports=ports(2), timeout=15 * speedup)
        (self.home / "slurm.conf").write_text(text, encoding="utf-8")
        (self.home / "job_submit.lua").write_text(_LIMIT_LUA.format(**values), encoding="utf-8")
        (self.home / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n", encoding="utf-8")

    def start(self) -> None:
        munge = self.home / "munge"
        key = munge / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        files = {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        options = [f"--{option}={munge / name}" for option, name in files.items()]
        self.spawn("munged", "munged", "--foreground", "--force", *options, "--num-threads=2")
        self.wait_until((munge / "socket").exists)
        self.start_controller("-c")
        self.spawn("slurmd", "slurmd", "-D", "-N", "c1", "-f", self.environ["SLURM_CONF"])
        self.await_nodes()

    def start_controller(self, *options: str) -> None:
        """Start slurmctld, with its state unless ``-c``."""
        clock = {}
        if self._speedup != 1:
            library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
            clock = {
                "LD_PRELOAD": str(library),
                "FAKETIME": f"+0 x{self._speedup}",
                "FAKETIME_DONT_FAKE_MONOTONIC": "0",
            }
        conf = self.environ["SLURM_CONF"]
        self.spawn("slurmctld", "slurmctld", "-D", "-f", conf, *options, env=clock)

    def await_nodes(self) -> None:
        """Wait until slurmctld answers and its node is up."""
        states = ("sinfo", "-h", "-t", "idle,mixed,allocated", "-o", "%D")
        self.wait_until(
            lambda: self.alive("slurmctld") and self.run(*states, check=False).strip() == "1"
        )

    def stop_controller(self) -> None:
        """Stop slurmctld; its clients wait for 19 s before they say so. It writes down its jobs first."""
        self.kill("slurmctld")

    @contextmanager
    def limited(self, jobs: int) -> Iterator[None]:
        """Have it take no more than so many jobs at once, or a few more: what it counts may be a second old."""
        limit = self.home / "limit"
        limit.write_text(str(jobs), encoding="utf-8")
        try:
            yield
        finally:
            limit.unlink()

    def cancel_all(self) -> None:
        """Cancel whatever jobs there are."""
        self.run("scancel", "--user", _user(), check=False)

    def stop(self) -> None:
        if self.alive("slurmctld"):
            self.cancel_all()
            with suppress(AssertionError):
                self.wait_until(lambda: not self.run("squeue", "-h", "-t", "R,CG", check=False), 5)
        for name in ("slurmd", "slurmctld", "munged"):
            self.kill(name)
        self.remove()


@contextmanager
def slurm() -> Iterator[Slurm]:
    """A running Slurm."""
    _need(("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel"))
    if not list(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")):
        unavailable("no libfaketime: `make test` installs it as root on Debian")
    cluster = Slurm()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


# -------------------------------------------------------------------------------------- Grid Engine

_SHARE, _LIB = Path("/usr/share/gridengine"), Path("/usr/lib/gridengine")
_CONFIGURATION = {
    "min_uid": "0",
    "min_gid": "0",
    "load_report_time": "00:00:01",
    "mailer": "/bin/true",
    # No job reads the profile of whoever runs the tests.
    "login_shells": "none",
    "max_unheard": "00:00:20",
}
_QUEUE = {
    "qname": "all.q",
    "shell": "/bin/bash",
    "load_thresholds": "NONE",
    "slots": "8",
    "pe_list": "NONE",
    "notify": "00:00:05",
    "rerun": "FALSE",
}
_SCHEDULER = {
    "schedule_interval": "0:0:1",
    "flush_submit_sec": "1",
    "flush_finish_sec": "1",
    "job_load_adjustments": "NONE",
    "load_adjustment_decay_time": "0:0:0",
}


class GridEngine(Scheduler):
    """One host with 8 slots."""

    jobs = ("qstat", "-u", "*", "-g", "d")

    def __init__(self) -> None:
        super().__init__()
        self._host = socket.gethostname()
        self._root = self.home / "root"
        first, second = ports(2)
        self.environ = {
            "SGE_ROOT": str(self._root),
            "SGE_CELL": "default",
            "SGE_CLUSTER_NAME": "tests",
            "SGE_QMASTER_PORT": str(first),
            "SGE_EXECD_PORT": str(second),
            # The binaries: Debian's wrappers take 60 ms a call.
            "PATH": f"{_LIB}:{_PATH}",
        }

    def start(self) -> None:
        self._lay_out()
        self.spawn("qmaster", str(_LIB / "sge_qmaster"), env={"SGE_ND": "1"})
        self.wait_until(lambda: bool(self.run("qconf", "-sh", check=False)))
        self.run("qconf", "-ah", self._host, check=False)
        self.spawn("execd", str(_LIB / "sge_execd"), env={"SGE_ND": "1"})
        self._make_queue()
        self.wait_until(self._ready)

    def stop(self) -> None:
        if self.alive("qmaster"):
            self.run("qdel", "-f", "-u", "*", check=False)
            with suppress(AssertionError):
                self.wait_until(lambda: not self.run("qstat", check=False), 3)
        self.kill("execd")
        self.kill("qmaster", patience=1)  # it takes 7 s by itself
        self.remove()

    @contextmanager
    def limited(self, jobs: int) -> Iterator[None]:
        """Have it take no more than so many jobs of a user at once; all tests share it, so not for longer."""
        before = self.run("qconf", "-sconf")
        self._configure(_with(before, {"max_u_jobs": str(jobs)}))
        try:
            yield
        finally:
            self._configure(before)

    def _configure(self, text: str) -> None:
        changed = self.home / "global"
        changed.write_text(text)
        self.run("qconf", "-Mconf", str(changed))

    def _lay_out(self) -> None:
        common = self._root / "default" / "common"
        for place in (
            common,
            self.home / "db",
            self.home / "execd",
            self.home / "qmaster/job_scripts",
        ):
            place.mkdir(parents=True)
        arch = subprocess.check_output([_SHARE / "util" / "arch"], text=True).strip()
        (self._root / "util").symlink_to(_SHARE / "util")
        for name in ("bin", "lib", "utilbin"):
            (self._root / name).mkdir()
            (self._root / name / arch).symlink_to(_LIB)
        (common / "cluster_name").write_text("tests\n")
        (common / "act_qmaster").write_text(f"{self._host}\n")
        (common / "host_aliases").write_text(f"{self._host} localhost\n")
        spool = {"spooling_params": f"{self.home}/db", "qmaster_spool_dir": f"{self.home}/qmaster"}
        bootstrap = (_SHARE / "default-bootstrap").read_text()
        (common / "bootstrap").write_text(_with(bootstrap, {"admin_user": "none", **spool}))
        text = (_SHARE / "default-configuration").read_text()
        text = text.replace(
            "flush_time=00:00:15", "flush_time=00:00:01 accounting_flush_time=00:00:00"
        )
        configuration = self.home / "configuration"
        configuration.write_text(
            _with(text, {**_CONFIGURATION, "execd_spool_dir": f"{self.home}/execd"})
        )
        self.run(str(_LIB / "spoolinit"), "berkeleydb", "libspoolb", f"{self.home}/db", "init")
        for what, where in (
            ("configuration", configuration),
            ("complexes", _SHARE / "util/resources/centry"),
            ("usersets", _SHARE / "util/resources/usersets"),
            ("managers", _user()),
        ):
            self.run(str(_LIB / "spooldefaults"), what, str(where))

    def _make_queue(self) -> None:
        self.run("qconf", "-ah", self._host, check=False)
        self.run("qconf", "-as", self._host)
        scheduler = self.home / "scheduler"
        scheduler.write_text(_with(self.run("qconf", "-ssconf"), _SCHEDULER))
        self.run("qconf", "-Msconf", str(scheduler))
        self.wait_until(lambda: "hostname" in self.run("qconf", "-se", self._host, check=False))
        queue = self.home / "queue"
        queue.write_text(_with(self.run("qconf", "-sq"), {**_QUEUE, "hostlist": self._host}))
        self.run("qconf", "-Aq", str(queue))

    def _ready(self) -> bool:
        lines = [
            line for line in self.run("qstat", "-f", check=False).splitlines() if "all.q@" in line
        ]
        # Without a state at its end.
        return bool(lines) and len(lines[0].split()) == 5


def _with(text: str, values: Mapping[str, str]) -> str:
    """Return a table of names and values with some of its values replaced."""
    for name, value in values.items():
        text = re.sub(rf"^{name}\b.*$", f"{name} {value}", text, flags=re.MULTILINE)
    return text


@contextmanager
def gridengine() -> Iterator[GridEngine]:
    """A running Grid Engine."""
    _need(("qsub", "qstat", "sge_qmaster", "sge_execd"))
    if os.geteuid() != 0:
        unavailable("only root can start Grid Engine")
    cluster = GridEngine()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name
