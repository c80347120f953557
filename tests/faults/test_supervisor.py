"""fwrunner as a process: whatever ends the process of the tasks, one final report is left, and no orphan."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fwrunner import node
from fwrunner.launch import Launch
from fwrunner.protocol import outbox_name
from fwrunner.supervise import run
from tests.support.agent import wait_until
from tests.support.jobs import REPOSITORY, Job, pythons

FUNCTIONS = """
    import ctypes, json, os, resource, signal, subprocess, sys, threading, time

    def leave():
        os._exit(3)

    def leave_far():
        daemon(start_new_session=True)
        leave()

    def leave_far_unmarked():
        daemon(start_new_session=True, env={"PATH": os.environ["PATH"]})
        pings = set()
        while len(pings) < 3:  # the second may have looked just before, but not the third
            with open("FW_ping.json") as file:
                pings.add(file.read())
        leave()

    def close_all(first, opened):
        # As daemons do; then what opens files has the numbers that were closed.
        os.closerange(first, 4096)
        for number in range(opened):
            kept.append(open("data", "ab"))

    def write_everywhere(text):
        for number in range(3, 64):
            try:
                os.write(number, text.encode())
            except OSError:
                pass

    def close_all_for_sockets():
        import socket
        os.closerange(3, 4096)
        kept.extend(socket.socketpair() for _ in range(6))

    kept = []

    def exit_python():
        sys.exit(0)

    def crash():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)

    def out_of_memory():
        os.kill(os.getpid(), signal.SIGKILL)

    def hog():
        # It leaves a process in a session of its own.
        daemon(start_new_session=True)
        deaf("up")

    def deaf(text=""):
        # As is code in C that does not come back.
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
        print(text or os.getpid(), flush=True)
        time.sleep(60)

    def hog_the_interpreter():
        sys.setswitchinterval(60)
        until = time.process_time() + 0.5
        while time.process_time() < until:
            pass

    def stop_ourselves():
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(60)

    def at_exit():
        import atexit
        atexit.register(lambda: open("at_exit", "w").close())

    def crash_at_exit():
        import atexit
        atexit.register(lambda: os.kill(os.getpid(), signal.SIGSEGV))
        return {"stored_data": 1}

    def wait_in_a_thread():
        threading.Thread(target=time.sleep, args=(0.3,)).start()

    def daemon(**options):
        sleeper = subprocess.Popen(["sleep", "60"], stdin=-3, stdout=-3, stderr=-3, **options)
        with open("pid", "w") as file:
            file.write(str(sleeper.pid))

    def fork_a_daemon():
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            for stream in range(3):
                os.close(stream)
            os.write(tell, b"x")
            time.sleep(60)
            os._exit(0)
        os.read(ready, 1)
        with open("pid", "w") as file:
            file.write(str(pid))

    def swallow():
        try:
            print("up", flush=True)
            time.sleep(60)
        except BaseException:
            pass

    def ignore():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("up", flush=True)
        while True:
            with open("FW_offline.json") as file:
                if "FIZZLED" in file.read():
                    return
            time.sleep(0.01)

    def busy():
        data = b"x" * 50_000_000
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass
        seen = {}
        while seen.get("rss", 0) < 50_000_000 or seen["cpu"] < 0.3:
            time.sleep(0.01)
            with open("FW_ping.json") as file:
                seen = json.load(file)
        return seen

    class Busy:
        def run_task(self, spec):
            return {"stored_data": {"seen": busy()}}
"""


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path, FUNCTIONS)
    yield job
    job.close()


def state(pid: int) -> str:
    """Return the letter that proc(5) has for the state of a process; X if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def running(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and was not waited for does not."""
    return state(pid) not in "ZX"


# Seconds: a busy machine needs many, and what is to be ended here would run for 60.
PATIENCE = 30


def became(pid: int, states: str) -> bool:
    until = time.monotonic() + PATIENCE
    while state(pid) not in states and time.monotonic() < until:
        time.sleep(0.01)
    return state(pid) in states


def gone(pid: int) -> bool:
    return became(pid, "ZX")


class Watch:
    """The seconds since it was made, but for those in which a job's supervisor, or we, had to wait for a processor.

    Those are the machine's, which may have other work to do.
    """

    def __init__(self, job: "subprocess.Popen[str]") -> None:
        self._pids = (job.pid, os.getpid())
        self._before = self._waited()
        self._began = time.time()

    def seconds(self, until: float | None = None) -> float:
        """Return those until now, or until a time of the wall clock; a job that has ended must not be waited for."""
        lasted = (until or time.time()) - self._began
        return lasted - (self._waited() - self._before)

    def _waited(self) -> float:
        texts = [Path(f"/proc/{pid}/schedstat").read_text() for pid in self._pids]
        return sum(int(text.split()[1]) for text in texts) / 1e9


class TestDeaths:
    @pytest.mark.parametrize(
        ("task", "why"),
        [
            ("leave()", "it ended the process of the tasks with exit status 3"),
            ("crash()", "the process of the tasks was killed by SIGSEGV"),
            ("out_of_memory()", "was killed by SIGKILL, perhaps because memory ran out (its peak was "),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("python", pythons())
    def test_of_the_tasks_process_are_told(self, job, task, why, python):
        job.stage("echo 1", task, "echo 3")
        status, out, err = job.run(python)
        assert (status, out) == (1, "1\n")
        assert why in err
        report = job.report()
        stored = job.stored()
        assert stored["_message"].startswith("task 2 of 3 (PyTask): ")
        assert why in stored["_message"]
        assert why in stored["_exception"]["_stacktrace"]
        assert stored["_task"]["func"] == f"job_tasks.{task[:-2]}"
        assert report.state == "FIZZLED"
        assert report.fwaction is not None
        assert report.fwaction["exit"] is True
        assert report.checkpoint is not None
        assert report.checkpoint["_task_n"] == 1
        assert report.checkpoint["_all_stored_data"] == {"returncode": 0, "all_returncodes": [0]}
        assert job.read("FW_offline.json")["state"] == "FIZZLED"

    def test_what_the_dead_left_running_is_ended(self, job):
        assert job.stage("daemon()", "leave()").run()[0] == 1
        assert gone(int((job.place / "pid").read_text()))

    @pytest.mark.parametrize(
        ("task", "interval"), [("leave_far()", 60), ("leave_far_unmarked()", 0.05)]
    )
    def test_what_they_left_in_another_session_is_ended(self, job, task, interval):
        """Its parent is gone: if it has our mark in its environment, or a ping has seen it before."""
        assert job.stage(task, ping_interval=interval).run()[0] == 1
        assert not running(int((job.place / "pid").read_text()))

    def test_what_was_told_just_before_counts(self, job, monkeypatch):
        """The tasks end while the supervisor is busy: it sees their end before it has heard the result."""
        ping, fork = Launch.ping, os.fork
        pids = []

        def noted() -> int:
            pids.append(fork())
            return pids[-1]

        def slow(launch, **facts):
            # Before their checkpoint the tasks wait for us. Other tests' children go on.
            with suppress(ChildProcessError):
                if "checkpoint" in launch.written:
                    os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOWAIT)
            ping(launch, **facts)

        monkeypatch.setattr(os, "fork", noted)
        monkeypatch.setattr(Launch, "ping", slow)
        job.stage("sleep 0.2", ping_interval=0.01)
        assert run(str(job.place)) == 0
        assert job.report().state == "COMPLETED"

    def test_no_process_to_be_had(self, job, monkeypatch, capfd):
        def refuse() -> int:
            raise BlockingIOError(11, "Resource temporarily unavailable")

        monkeypatch.setattr(os, "fork", refuse)
        job.stage("true")
        before = list(Path("/proc/self/fd").iterdir())
        assert run(str(job.place)) == 1
        assert "no process could be started for the tasks" in job.stored()["_message"]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
        assert len(list(Path("/proc/self/fd").iterdir())) == len(before)

    @pytest.mark.parametrize(
        "task",
        [
            {"func": "job_tasks.close_all", "args": [3, 0]},
            {"func": "job_tasks.close_all", "args": [0, 0]},
            {"func": "job_tasks.close_all", "args": [3, 12]},
            {"func": "job_tasks.close_all_for_sockets"},
        ],
        ids=["closed", "streams_too", "files", "sockets"],
    )
    @pytest.mark.parametrize("python", pythons())
    def test_descriptors_that_a_task_closes(self, job, task, python):
        job.stage({"_fw_name": "PyTask", **task}, "echo x > second")
        with job.start(python) as process:
            process.communicate(timeout=PATIENCE)
        assert (job.place / "second").exists()
        assert job.report().state == "COMPLETED"
        assert job.report().checkpoint["_task_n"] == 1
        if (job.place / "data").exists():
            assert (job.place / "data").read_bytes() == b""

    @pytest.mark.parametrize(
        "text", ["no end", "\u00fc\n[1]\n5\n", '{"state": "COMPLETED"}\n{"task": 1}\n']
    )
    def test_what_a_task_writes_to_descriptors_of_ours(self, job, text):
        job.stage(
            {"_fw_name": "PyTask", "func": "job_tasks.write_everywhere", "args": [text]}, "no"
        )
        assert job.run()[0] == 1
        assert job.stored()["_message"].startswith("runtime error")
        assert job.report().checkpoint["_task_n"] == 1

    def test_of_the_supervisor_reaches_a_task_that_has_closed_the_channel(self, job):
        job.stage({"_fw_name": "PyTask", "func": "job_tasks.close_all", "args": [3, 0]}, "deaf()")
        process = job.start()
        child = int(process.stdout.readline())
        process.kill()
        assert gone(child)
        process.communicate()

    def test_sys_exit_is_a_failure_of_the_task(self, job):
        assert job.stage("exit_python()").run()[0] == 1
        assert "SystemExit: 0" in job.stored()["_exception"]["_stacktrace"]

    @pytest.mark.parametrize("python", pythons())
    def test_of_a_command_is_seen_where_that_signal_is_ignored(self, job, python):
        ignored = {"preexec_fn": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)}
        assert job.stage("exit 3").run(python, **ignored)[0] == 1
        assert "Return code: [3]" in job.stored()["_exception"]["_stacktrace"]

    def test_a_death_after_the_last_task_changes_nothing(self, job):
        assert job.stage("crash_at_exit()").run()[0] == 0
        assert job.report().state == "COMPLETED"

    @pytest.mark.parametrize(
        "task",
        [
            "echo $$; sleep 60; echo no > no",
            "timeout 60 sh -c 'echo $$; sleep 60; echo no > no'; echo",
            "(setsid sh -c 'echo $$; exec sleep 60' &); sleep 60",
            "deaf()",
        ],
    )
    @pytest.mark.parametrize("python", pythons())
    def test_of_the_supervisor_is_one_of_the_tasks_too(self, job, python, task):
        job.stage(task)
        process = job.start(python)
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        assert gone(child)
        process.communicate()
        report = job.report()
        assert (report.state, report.final) == ("RUNNING", False)
        assert not (job.place / "no").exists()

    def test_the_interpreter_ends_as_it_should(self, job):
        job.stage("at_exit()", "wait_in_a_thread()")
        before = time.monotonic()
        assert job.run()[0] == 0
        assert (job.place / "at_exit").exists()
        assert time.monotonic() - before > 0.3


class TestSignals:
    @pytest.mark.parametrize(
        ("number", "python"),
        [(name, python) for name in ("TERM", "INT", "USR1") for python in pythons()]
        + [(name, sys.executable) for name in ("HUP", "USR2", "XCPU", "QUIT", "ALRM")]
        + [("RTMIN", python) for python in pythons()],
    )
    def test_reach_the_command_and_end_the_firework(self, job, number, python):
        # The shell cannot run its trap before what it waits for has ended: that must have the signal too.
        waited_for = "sh -c 'echo up; exec sleep 60'"
        told = "trap 'echo told > told; exit 0'"
        caught = int(getattr(signal, f"SIG{number}"))
        job.stage("true", f"{told} {caught}; {waited_for}; exit 1", "no")
        job.environment["SLURM_JOB_END_TIME"] = str(time.time() + 60)
        process = job.start(python)
        assert process.stdout.readline() == "up\n"
        process.send_signal(getattr(signal, f"SIG{number}"))
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
        stored = job.stored()
        start, _, left = stored["_message"].partition(f"ended by SIG{number}, ")
        assert start == "task 2 of 3 (ScriptTask): "
        assert left[2:] == " s before the end of the job"
        assert 50 <= int(left[:2]) <= 60
        assert job.report().checkpoint["_task_n"] == 1

    def test_a_lost_connection_under_nohup_is_none(self, job):
        job.stage("echo up; read line; kill -HUP $$; echo $line > line")
        process = job.start(
            stdin=-1, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
        )
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGHUP)
        process.communicate("done\n", timeout=PATIENCE)
        assert process.returncode == 0
        assert (job.place / "line").read_text() == "done\n"

    @pytest.mark.parametrize("python", pythons())
    def test_suspend_and_resume_all_of_it(self, job, python):
        """In a session without a shell that looks after it, as a batch job is."""
        job.stage("echo $PPID; echo $$; exec cat", "true")
        process = job.start(python, stdin=-1, start_new_session=True)
        pids = [process.pid, *(int(process.stdout.readline()) for _ in range(2))]
        for _ in range(2):
            process.send_signal(signal.SIGTSTP)
            for pid in pids:
                assert became(pid, "T")
            process.send_signal(signal.SIGCONT)
            for pid in pids:
                assert became(pid, "SR")
        assert process.communicate("end", timeout=PATIENCE) == ("end", "")
        assert job.report().state == "COMPLETED"

    def test_a_suspended_job_can_be_ended(self, job):
        job.stage("echo $$; exec sleep 60")
        process = job.start()
        child = int(process.stdout.readline())
        process.send_signal(signal.SIGTSTP)
        assert became(process.pid, "T")
        assert became(child, "T")
        process.terminate()
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=PATIENCE)
        assert job.stored()["_message"].endswith("ended by SIGTERM")

    def test_a_warning_leaves_the_command_time(self, job):
        job.stage("trap 'sleep 0.3; echo saved > saved; exit 0' USR1; echo up; sleep 60 & wait")
        process = job.start()
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGUSR1)
        process.communicate(timeout=PATIENCE)
        assert (job.place / "saved").read_text() == "saved\n"
        assert job.stored()["_message"].endswith("ended by SIGUSR1")

    def test_a_warning_that_comes_too_late_leaves_none(self, job):
        job.stage("trap '' USR1; echo up; sleep 60 & wait; wait")
        job.environment["SLURM_JOB_END_TIME"] = str(time.time() + 14)
        process = job.start()
        assert process.stdout.readline() == "up\n"
        watch = Watch(process)
        process.send_signal(signal.SIGUSR1)
        assert gone(process.pid)
        assert watch.seconds() < 4
        process.communicate()
        assert job.report().state == "FIZZLED"

    def test_one_that_the_tasks_got_alone(self, job):
        job.stage("stop_ourselves()")
        assert job.run()[0] == 1
        assert job.stored()["_message"].endswith("ended by SIGUSR2")

    def test_a_task_that_is_deaf_is_killed(self, job):
        job.stage("true", "hog()")
        process = job.start()
        assert process.stdout.readline() == "up\n"
        far = int((job.place / "pid").read_text())
        watch = Watch(process)
        before = time.monotonic()
        process.terminate()
        assert gone(process.pid)
        assert watch.seconds() < 10  # PBS kills then
        assert time.monotonic() - before > 5
        process.communicate()
        assert process.returncode == 1
        told = "ended by SIGTERM; it had not stopped by then"
        assert job.stored()["_message"] == f"task 2 of 2 (PyTask): {told}"
        assert gone(far)
        assert job.report().checkpoint["_task_n"] == 1

    def test_the_report_is_there_within_two_seconds(self, job):
        """Torque kills then, and others if they are told to."""
        job.stage("trap '' TERM; echo up; sleep 60 & wait; wait; sleep 60")
        process = job.start(start_new_session=True)
        assert process.stdout.readline() == "up\n"
        watch = Watch(process)
        os.killpg(process.pid, signal.SIGTERM)
        last = job.outbox / outbox_name(7, "abc", final=True)
        wait_until(last.exists)
        assert watch.seconds(until=last.stat().st_mtime) < 2
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
        assert "ended by SIGTERM; it had not stopped by then" in job.stored()["_message"]

    def test_nothing_goes_on_after_the_report(self, job):
        """A task that has another handler may end later than the report is due."""
        job.stage("ignore()", "echo x > second")
        process = job.start()
        assert process.stdout.readline() == "up\n"
        process.terminate()
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
        assert job.report().state == "FIZZLED"
        assert not (job.place / "second").exists()

    def test_a_task_that_goes_on_has_its_result_told(self, job):
        job.stage("swallow()")
        process = job.start()
        assert process.stdout.readline() == "up\n"
        process.terminate()
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert job.report().state == "COMPLETED"

    @pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGUSR1])
    @pytest.mark.parametrize("python", pythons())
    def test_reach_other_process_groups(self, job, end, python):
        """As `timeout`, `setsid` and shells with job control make them."""
        told = "trap 'echo told >> told; exit' TERM USR1; echo $$; while :; do sleep 0.05; done"
        (job.root / "command").write_text(told)
        job.stage(f"timeout 60 sh {job.root}/command; echo done")
        process = job.start(python)
        child = int(process.stdout.readline())
        process.send_signal(end)
        assert gone(child)
        process.communicate(timeout=PATIENCE)
        assert set((job.place / "told").read_text().split()) == {"told"}
        assert job.stored()["_message"].endswith(f"ended by {end.name}")

    @pytest.mark.parametrize(
        "task",
        [
            "setsid -w sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done'; echo done",
            "(setsid sh -c 'echo $$; exec sleep 60' &); sleep 60",
        ],
    )
    def test_leave_no_orphan_in_another_process_group(self, job, task):
        job.stage(task)
        process = job.start()
        child = int(process.stdout.readline())
        process.terminate()
        process.communicate(timeout=PATIENCE)
        assert job.stored()["_message"].endswith("ended by SIGTERM")
        assert not running(child)

    def test_leave_no_orphan(self, job):
        job.stage("daemon()", "trap '' INT; sleep 60 & echo $!; wait", "no")
        process = job.start()
        child = int(process.stdout.readline())
        daemon = int((job.place / "pid").read_text())
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
        assert job.stored()["_message"].endswith("ended by SIGINT")
        assert gone(child)
        assert gone(daemon)

    @pytest.mark.parametrize("task", ["daemon()", "fork_a_daemon()"])
    def test_without_one_a_daemon_may_stay(self, job, task):
        job.stage(task)
        assert job.run()[0] == 0
        daemon = int((job.place / "pid").read_text())
        assert running(daemon)
        os.kill(daemon, signal.SIGKILL)


class TestTerminal:
    def test_ctrl_c_and_input(self, job):
        """On a terminal tasks can read from it, and Ctrl-C reaches them once."""
        import pty

        job.stage("read line; echo got $line; exec sleep 60")
        controller, terminal = pty.openpty()
        process = job.start(
            stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
            preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(terminal)
        os.write(controller, b"hello\n")
        seen = b""
        while b"got hello" not in seen:
            seen += os.read(controller, 1000)
        os.write(controller, b"\x03")
        assert process.wait(timeout=PATIENCE) == 1
        os.close(controller)
        assert job.stored()["_message"].endswith("ended by SIGINT")

    def test_a_signal_to_the_supervisor_alone(self, job):
        import pty

        job.stage("echo $$; sleep 60; echo no")
        controller, terminal = pty.openpty()
        process = job.start(
            stdin=terminal, start_new_session=True, preexec_fn=_ignore_hangup_and_take_terminal
        )  # fmt: skip
        os.close(terminal)
        shell = int(process.stdout.readline())
        wait_until(lambda: len(node.family(shell)) == 2)  # the shell and its sleep
        before = list(node.family(shell))
        process.terminate()
        process.communicate(timeout=PATIENCE)  # the end of stdout: all of them have ended
        os.close(controller)
        assert job.stored()["_message"].endswith("ended by SIGTERM")
        assert not any(running(pid) for pid in before)

    def test_the_death_of_the_supervisor(self, job):
        import pty

        job.stage("echo $$; sleep 60; echo no")
        controller, terminal = pty.openpty()
        process = job.start(
            stdin=terminal, start_new_session=True, preexec_fn=_ignore_hangup_and_take_terminal
        )  # fmt: skip
        os.close(terminal)
        shell = int(process.stdout.readline())
        process.kill()
        process.communicate(timeout=PATIENCE)  # the end of stdout: all of them have ended
        os.close(controller)
        assert gone(shell)


def _ignore_hangup_and_take_terminal() -> None:
    # Else the death of the session's leader alone would end what reads from its terminal.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _take_terminal()


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class TestRunnerReplacedMeanwhile:
    """By an upgrade, while a job runs for days; or the file system that fwrunner is on is gone."""

    @pytest.mark.parametrize(
        ("task", "state", "told"),
        [
            ("true", "COMPLETED", ""),
            ("exit 3", "FIZZLED", "runtime error"),
            ("leave()", "FIZZLED", "with exit status 3"),
            ("out_of_memory()", "FIZZLED", "killed by SIGKILL"),
            ("echo '{\"stored_data\": {\"_message\": \"ours\"}}' > FWAction.json", "COMPLETED", "ours"),
        ],
    )  # fmt: skip
    def test_the_report_is_left(self, job, task, state, told):
        gone = self.code(job)
        job.stage(f"{gone}; echo x > out", task, _trackers=[{"filename": "out"}])
        job.run(cwd=job.root)  # else this directory is the first on its path
        assert job.report().state == state
        assert told in job.stored().get("_message", "")
        assert job.report().trackers == {"out": "x\n"}

    def test_it_is_rescued(self, job):
        job.stage(f"{self.code(job)}; rm -r {job.place} {job.outbox}; cd /")
        job.environment["SLURM_JOB_END_TIME"] = "1"  # nothing is waited for
        job.run(cwd=job.root)
        assert (job.home / ".fwagent" / "rescue" / "7.abc.json").exists()

    def code(self, job: Job) -> str:
        """Return the command that removes the code that the job has been started from."""
        code = job.root / "code"
        shutil.copytree(REPOSITORY / "fwrunner", code / "fwrunner")
        job.environment["PYTHONPATH"] = f"{code}{os.pathsep}{job.root}"
        return f"rm -r {code}"


class TestPing:
    def test_what_it_tells(self, job):
        job.environment["SLURM_JOB_ID"] = "4711"
        job.stage("true", "cat FW_ping.json")
        process = job.start()
        first = json.loads(process.communicate(timeout=PATIENCE)[0])
        assert process.returncode == 0
        last = job.read("FW_ping.json")
        assert last.pop("ping_time") > first.pop("ping_time")
        here = {"host": os.uname().nodename, "pid": process.pid, "job_id": "4711"}
        assert (first, last) == ({**here, "task": 0}, {**here, "task": 1})

    def test_use_of_memory_and_processor(self, job):
        job.stage({"_fw_name": "{{job_tasks.Busy}}"}, ping_interval=0.05)
        assert job.run()[0] == 0
        seen = job.stored()["seen"]
        assert 0.3 <= seen["cpu"] < 30
        assert 50_000_000 <= seen["rss"] < 200_000_000

    def test_a_task_that_hogs_the_interpreter_does_not_stop_it(self, job):
        job.stage("hog_the_interpreter()", ping_interval=0.02)
        process = job.start()
        seen = set()
        while process.poll() is None:
            with suppress(FileNotFoundError):
                seen.add(job.read("FW_ping.json")["ping_time"])
        process.communicate()
        assert process.returncode == 0
        assert len(seen) > 5

    def test_a_scheduler_is_not_needed(self, job):
        job.stage("true")
        job.run()
        assert job.read("FW_ping.json")["job_id"] is None


class TestStartedAgain:
    def cut(self, job: Job) -> None:
        """Kill a job in its second task."""
        process = job.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.kill()
        process.communicate()

    TASKS = (
        {"_fw_name": "PyTask", "func": "builtins.len", "args": ["abc"], "outputs": ["n"]},
        "echo x >> ran; [ -e go ] || { touch go; echo up; exec sleep 60; }",
        {"_fw_name": "PyTask", "func": "builtins.str", "inputs": ["n"], "outputs": ["text"]},
    )

    @pytest.mark.parametrize(("resume", "begun"), [(True, 1), (False, 2)])
    def test_from_the_checkpoint_if_the_firework_asks(self, job, resume, begun):
        first = {"_fw_name": "ScriptTask", "script": "echo x >> begun"}
        spec = {"_resume_requeued": True} if resume else {}
        job.stage(self.TASKS[0], first, *self.TASKS[1:], **spec)
        self.cut(job)
        assert job.run()[0] == 0
        assert (job.place / "begun").read_text() == "x\n" * begun
        report = job.report()
        assert (report.state, report.attempt) == ("COMPLETED", 2)
        assert report.fwaction is not None
        assert report.fwaction["update_spec"] == {"n": 3, "text": "3"}

    @pytest.mark.parametrize(
        "change", [{}, {"_task_n": "1"}, {"_task_n": 9}, {"_task_n": -1}, {"_task_n": True}, {"_all_mod_spec": None}]
    )  # fmt: skip
    def test_a_checkpoint_that_cannot_be_used(self, job, change):
        job.stage("echo x >> ran", "true", _resume_requeued=True)
        offline = job.read("FW_offline.json")
        offline["fwagent"]["attempt"] = 1
        whole = {"_task_n": 1, "_all_stored_data": {}, "_all_update_spec": {}, "_all_mod_spec": []}
        job.write(
            "FW_offline.json", {**offline, "checkpoint": {**whole, **change} if change else []}
        )
        status, _, err = job.run()
        assert status == 0
        assert (job.place / "ran").read_text() == "x\n"
        assert "cannot be used" in err

    def test_what_has_ended_is_not_run_again(self, job):
        job.stage("echo x >> ran; exit 1")
        assert job.run()[0] == 1
        report = job.report()
        status, _, err = job.run()
        assert (status, job.report()) == (1, report)
        assert (job.place / "ran").read_text() == "x\n"
        assert "launch 7 has ended as FIZZLED before; nothing is run again" in err


@pytest.mark.parametrize("python", pythons())
def test_paths_are_utf8_whatever_the_locale(job, python):
    job.outbox = job.root / "outbox \u00fc"
    job.outbox.mkdir()
    written = [{"filename": "\u00fc", "contents": "\u00fc"}]
    moved = {"mode": "move", "files": ["\u00fc"], "dest": "\u00e9"}
    (job.place / "\u00e4.json").write_text("{}")
    job.stage(
        {"_fw_name": "ArchiveDirTask", "base_name": "\u00e0", "format": "zip"},
        {"_fw_name": "ImportDataTask", "filename": "\u00e4.json", "mapstring": "a"},
        {
            "_fw_name": "ScriptTask",
            "script": "cat",
            "stdin_file": "\u00e4.json",
            "stdout_file": "\u00f6",
        },
        {"_fw_name": "FileWriteTask", "files_to_write": written},
        {"_fw_name": "FileTransferTask", **moved},
    )
    job.environment.update(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert job.run(python)[0] == 0
    assert (job.place / "\u00e9").read_bytes() == "\u00fc".encode()
    assert (job.place / "\u00f6").read_text() == "{}"
    with zipfile.ZipFile(job.place / "\u00e0.zip") as archive:
        assert "\u00e4.json" in archive.namelist()
    assert (job.outbox / "7.abc.json").exists()
