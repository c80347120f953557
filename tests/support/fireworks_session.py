"""One process of real FireWorks that stays: for tests that ask it more often than it could be started.

Starting FireWorks takes most of a second, a question to this one a millisecond and what it takes to answer.
"""

from __future__ import annotations

import subprocess
import textwrap
from types import TracebackType
from typing import Any

from bson import json_util

from tests.support.fireworks import FireWorks, FireWorksError

# Reads one job a line, {"code", "names"}, and answers in one line, {"result"} or {"error"}. What the code defines
# stays. FireWorks prints to stdout as it likes, so the answers go to what stdout was at the start.
_SERVE = """\
import os, sys, traceback
from bson import json_util
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
names = {}
for line in sys.stdin:
    job = json_util.loads(line)
    names.update(job["names"], result=None)
    try:
        exec(compile(job["code"], "<job>", "exec"), names)
        answer = {"result": names["result"]}
    except Exception:
        answer = {"error": traceback.format_exc()}
    print(json_util.dumps(answer, json_options=json_util.CANONICAL_JSON_OPTIONS), file=answers, flush=True)
"""


class FireWorksSession:
    """A running Python with FireWorks importable, in the environment of `fireworks`. End it: `with`."""

    def __init__(self, fireworks: FireWorks) -> None:
        self._log = (fireworks.home / "session.log").open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(fireworks.venv / "bin" / "python"), "-W", "ignore", "-c", _SERVE],
            cwd=fireworks.home,
            env=fireworks.environ(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
        )

    def python(self, code: str, **names: Any) -> Any:
        """Run code, with `names` as variables; return what it leaves in `result`.

        Values travel as extended JSON, as with `FireWorks.python`; dates come back aware. Raises FireWorksError
        with the traceback.
        """
        job = {"code": textwrap.dedent(code), "names": names}
        line = json_util.dumps(job, json_options=json_util.CANONICAL_JSON_OPTIONS)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise FireWorksError(f"the session has ended: see {self._log.name}")
        found: dict[str, Any] = json_util.loads(answer)
        if "error" in found:
            raise FireWorksError(found["error"])
        return found["result"]

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # it reads to the end, and then ends
        self._process.wait(timeout=30)
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> FireWorksSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
