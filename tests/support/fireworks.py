"""Real FireWorks, as a user has it: its commands as subprocesses, and a home with `~/.fireworks`.

It lives in a virtual environment of its own (`make test` builds it), so that nothing of it can leak into what
is tested. `FireWorks.home` is $HOME of every command: the four configuration files are in its `.fireworks`,
where FireWorks looks from any working directory, unless that one has files of these names.
"""

import os
import shlex
import subprocess
import textwrap
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from bson import json_util

from agent.mongod import Mongod
from tests.support.mongod import write_launchpad_file

REPOSITORY = Path(__file__).resolve().parents[2]

# Reads {"code", "names"} from stdin; what the code leaves in `result` goes to the file named by argv[1], since
# FireWorks prints to stdout as it likes.
_RUN_SNIPPET = """\
import sys
from pathlib import Path
from bson import json_util
from fireworks import LaunchPad
job = json_util.loads(sys.stdin.read())
names = {"launchpad": LaunchPad.auto_load, "result": None, **job["names"]}
exec(compile(job["code"], "<snippet>", "exec"), names)
text = json_util.dumps(names["result"], json_options=json_util.CANONICAL_JSON_OPTIONS)
Path(sys.argv[1]).write_text(text)
"""

# FireWorks' own classes load each document and write it back: [collection, stored, written back].
_RELOAD = """\
lp = launchpad()
result = []
for stored in lp.launches.find({}, {"_id": 0}):
    result.append(["launches", stored, lp.get_launch_by_id(stored["launch_id"]).to_db_dict()])
for stored in lp.fireworks.find({}, {"_id": 0}):
    result.append(["fireworks", stored, lp.get_fw_by_id(stored["fw_id"]).to_db_dict()])
for stored in lp.workflows.find({}, {"_id": 0}):
    result.append(["workflows", stored, lp.get_wf_by_fw_id(stored["nodes"][0]).to_db_dict()])
"""

# Takes any job, runs none; remembers the directory and the arguments of each. Its number is its line.
_STUB_SBATCH = """\
#!/bin/sh
printf '%s\\t%s\\n' "$PWD" "$*" >> "$STUB_SBATCH_LOG" || exit 1
echo "Submitted batch job $(wc -l < "$STUB_SBATCH_LOG")"
"""


class Submission(NamedTuple):
    """One call of the stub `sbatch`."""

    job_id: str
    directory: Path
    arguments: list[str]


class FireWorksError(AssertionError):
    """A command of FireWorks failed; the message has its output."""


def fireworks_venv() -> Path:
    """Where FireWorks is installed, or would be."""
    named = os.environ.get("FWAGENT_FIREWORKS_VENV")
    return Path(named).resolve() if named else REPOSITORY / ".venv-fireworks"


class FireWorks:
    """FireWorks bound to one database and one home directory."""

    def __init__(
        self, home: Path, server: Mongod, db_name: str, *, venv: Path | None = None
    ) -> None:
        self.home = home
        self.venv = venv or fireworks_venv()
        self.config = home / ".fireworks"
        self.launchpad_file = write_launchpad_file(
            self.config / "my_launchpad.yaml", server, db_name
        )
        self._submissions = home / "submissions.tsv"
        self.write_worker()
        self.write_queue_adapter()
        self._install_stubs()

    def write_worker(
        self,
        name: str = "test-worker",
        *,
        category: str = "",
        query: str = "{}",
        env: Mapping[str, Any] | None = None,
    ) -> Path:
        """`my_fworker.yaml`; `query` is JSON text, as FireWorks wants it."""
        worker = {"name": name, "category": category, "query": query, "env": dict(env or {})}
        return self._write_config("my_fworker.yaml", worker)

    def write_queue_adapter(
        self, rocket_launch: str = "rlaunch singleshot --offline", **options: Any
    ) -> Path:
        """`my_qadapter.yaml` of a Slurm queue, whose `sbatch` is the stub."""
        adapter = {"_fw_name": "CommonAdapter", "_fw_q_type": "SLURM", "logdir": None}
        return self._write_config(
            "my_qadapter.yaml", {**adapter, "rocket_launch": rocket_launch, **options}
        )

    def write_fw_config(self, **settings: Any) -> Path:
        """`FW_config.yaml`, for example ``PING_TIME_SECS=1``."""
        return self._write_config("FW_config.yaml", settings)

    def environ(self) -> dict[str, str]:
        """The environment of every command: this home, the stub queue and the venv first on PATH."""
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "FW_", "SLURM_"))
        }
        path = os.pathsep.join([str(self.home / "bin"), str(self.venv / "bin"), os.environ["PATH"]])
        own = {"HOME": str(self.home), "PATH": path, "STUB_SBATCH_LOG": str(self._submissions)}
        return {**kept, **own}

    def run(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        check: bool = True,
        stdin: str = "",
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the venv (default directory: home); `check`: raise with its output."""
        done = subprocess.run(
            [str(self.venv / "bin" / command[0]), *map(str, command[1:])],
            cwd=cwd or self.home,
            env=self.environ(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise FireWorksError(
                f"{shlex.join(done.args)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def lpad(
        self, *args: str | Path, cwd: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return self.run("lpad", *args, cwd=cwd, check=check)

    def qlaunch(
        self, *args: str | Path, cwd: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Note that it exits with 0 also when a submission failed; see `submissions`."""
        return self.run("qlaunch", *args, cwd=cwd, check=check)

    def rlaunch(
        self, *args: str | Path, cwd: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Note that it exits with 0 also when the Firework is FIZZLED."""
        return self.run("rlaunch", *args, cwd=cwd, check=check)

    def python(self, code: str, *, seconds: float = 60.0, **names: Any) -> Any:
        """Run Python with FireWorks importable, for so many seconds at most; its `result` comes back.

        `names` are its variables; `launchpad()` makes the LaunchPad. Values travel as extended JSON, so dates,
        ObjectIds and int64 arrive as such.
        """
        job = {"code": textwrap.dedent(code), "names": names}
        answer = self.home / "snippet-result.json"
        answer.unlink(missing_ok=True)
        stdin = json_util.dumps(job, json_options=json_util.CANONICAL_JSON_OPTIONS)
        self.run("python", "-c", _RUN_SNIPPET, answer, stdin=stdin, timeout=seconds)
        return json_util.loads(answer.read_text(encoding="utf-8"))

    def reloaded(self) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
        """(collection, stored, what FireWorks' classes write back after loading it) of every document."""
        return [
            (collection, stored, written) for collection, stored, written in self.python(_RELOAD)
        ]

    def reset(self) -> None:
        """`lpad reset`: an empty LaunchPad with its indexes."""
        today = datetime.now().astimezone().strftime("%Y-%m-%d")  # its password, in local time
        self.lpad("reset", "--password", today)

    def submissions(self) -> list[Submission]:
        """What was given to the stub `sbatch`, in order."""
        if not self._submissions.exists():
            return []
        lines = self._submissions.read_text(encoding="utf-8").splitlines()
        rows = [line.split("\t", 1) for line in lines]
        return [
            Submission(str(n), Path(directory), shlex.split(arguments))
            for n, (directory, arguments) in enumerate(rows, 1)
        ]

    def _install_stubs(self) -> None:
        stubs = self.home / "bin"
        stubs.mkdir(parents=True, exist_ok=True)
        for name, text in (("sbatch", _STUB_SBATCH), ("squeue", "#!/bin/sh\nexit 0\n")):
            (stubs / name).write_text(text, encoding="utf-8")
            (stubs / name).chmod(0o755)

    def _write_config(self, name: str, content: Mapping[str, Any]) -> Path:
        path = self.config / name  # JSON is YAML
        path.write_text(json_util.dumps(content, indent=2) + "\n", encoding="utf-8")
        return path
