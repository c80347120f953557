"""The local queue when its server, its jobs or the host are killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import localqueue, localserver
from agent.localspool import Spool, me, read, try_lock
from tests.support.localqueue import Bench, states, the, wait_for, wait_gone

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def pid_of(bench: Bench, number: int) -> int:
    return int(wait_for(bench.directory / f"launcher_{number}" / "pid"))


def started_after(line: str) -> subprocess.Popen[bytes]:
    """A process of another start time (ticks of 10 ms): no kernel gives an id again within one."""
    while True:
        process = subprocess.Popen(["sleep", "60"], start_new_session=True)
        if start_time(read(Path(f"/proc/{process.pid}/stat"))) != start_time(line):
            return process
        process.kill()
        process.wait()


def start_time(line: str) -> str:
    return line.rpartition(")")[2].split()[19]


def test_jobs_outlive_a_killed_server_and_the_next_one_goes_on(bench):
    queue = bench.queue(max_running=2)
    os.mkfifo(bench.directory / "go")
    text = "echo $$ >>pid; read x <../go; exit 7"
    for n in range(1, 5):
        queue.submit(bench.script(n, text), n, "j")
    pids = [pid_of(bench, n) for n in (1, 2)]
    bench.stop_server(signal.SIGKILL)
    (bench.directory / "go").write_text("x\nx\n")
    for pid in pids:
        wait_gone(pid)
    assert [job.state for job in queue.jobs()] == ["RUNNING", "RUNNING", "PENDING", "PENDING"]
    queue.ensure_server()
    pid_of(bench, 3), pid_of(bench, 4)
    bench.stop_server(signal.SIGKILL)
    queue.ensure_server()  # these are adopted while they run
    assert [job.state for job in queue.jobs()][2:] == ["RUNNING", "RUNNING"]
    (bench.directory / "go").write_text("x\nx\n")
    assert queue.wait_idle(20)
    assert states(queue) == {str(n): ("DONE", 7) for n in range(1, 5)}
    ran = [path.read_text().split() for path in bench.directory.glob("*/pid")]
    assert [len(pids) for pids in ran] == [1] * 4


def test_sigterm_stops_the_server_and_not_its_jobs(bench):
    queue = bench.queue(max_running=1)
    first = queue.submit(bench.script(1, "echo $$ >pid; sleep 0.5; exit 4"), 1, "j")
    second = queue.submit(bench.script(2), 2, "j")
    pid = pid_of(bench, 1)
    bench.stop_server(signal.SIGTERM)
    wait_gone(pid)
    assert bench.server is None
    assert [job.state for job in queue.jobs()] == ["RUNNING", "PENDING"]
    queue.ensure_server()
    assert queue.wait_idle(10)
    assert states(queue) == {first: ("DONE", 4), second: ("DONE", 0)}


def test_a_job_that_died_with_the_server_is_lost(bench):
    queue = bench.queue()
    job_id = queue.submit(bench.script(1, "echo $PPID >pid; sleep 60"), 1, "j")
    wrapper = pid_of(bench, 1)
    bench.stop_server(signal.SIGKILL)
    os.killpg(wrapper, signal.SIGKILL)
    wait_gone(wrapper)
    queue.ensure_server()
    assert queue.wait_idle(10)
    assert states(queue) == {job_id: ("LOST", None)}


def test_a_recycled_process_id_is_not_taken_for_the_job(bench):
    queue = bench.queue()
    job_id = queue.submit(bench.script(1, "echo $$ >pid; sleep 60"), 1, "j")
    pid_of(bench, 1)
    bench.stop_server(signal.SIGKILL)
    note = Spool(bench.spool).note(f"{job_id}-1", ".start")
    line = note.read_text()
    os.killpg(int(line.split()[0]), signal.SIGKILL)
    with started_after(line) as other:
        note.write_text(line.replace(line.split()[0], str(other.pid), 1))
        queue.ensure_server()
        assert queue.wait_idle(10)
        assert the(queue, job_id).state == "LOST"
        assert not queue.cancel(job_id)
        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize("started", [False, True])
def test_a_start_that_was_cut_is_repeated_and_never_runs_twice(bench, started):
    """The server died after its rename; the job it may have spawned is late, or has even ended."""
    queue, spool = bench.queue(max_running=1), Spool(bench.spool)
    job_id = queue.submit(bench.script(1, "echo ran >>../ran"), 1, "j")
    assert queue.wait_idle(10)
    bench.stop_server()
    record = spool.load("done", "1-1")
    assert record is not None
    running = spool.path("running", "1-1")
    running.write_text(spool.path("done", "1-1").read_text().replace("}", ', "environment": {}}'))
    spool.path("done", "1-1").unlink()
    if started:
        spool.note("1-1", ".start").write_text(me())
        spool.note("1-1", ".exit").write_text("0\n")
    queue.ensure_server()
    assert queue.wait_idle(10)
    assert states(queue) == {job_id: ("DONE", 0)}
    assert (bench.directory / "ran").read_text() == "ran\n" * (1 if started else 2)
    late = ["sh", "-c", localserver._WRAPPER, "sh", str(spool.note("1-1")), str(running)]
    assert subprocess.run([*late, "/", "sh", "-c", "exit 99"], check=False).returncode == 125
    running.touch()  # now as if the job were running, with another process that has said so
    spool.note("1-1", ".start").write_text("1\n")
    assert subprocess.run([*late, "/", "sh", "-c", "exit 99"], check=False).returncode == 125


def test_after_a_reboot_nothing_is_alive_and_nothing_is_repeated(bench):
    queue, spool = bench.queue(), Spool(bench.spool)
    for n in (1, 2):
        queue.submit(bench.script(n, "echo $$ >>pid; exec sleep 60"), n, "j")
        pid_of(bench, n)
    bench.stop_server(signal.SIGKILL)
    spool.note("2-2", ".start").rename(bench.directory / "2.start")  # lost in the power cut
    lock = bench.spool / "lock"
    lock.write_text(f"{lock.read_text().partition(chr(10))[0]}\nanother boot")
    queue.ensure_server()
    assert queue.wait_idle(10)
    assert states(queue) == {"1": ("LOST", None), "2": ("LOST", None)}
    for n in (1, 2):
        os.killpg(os.getpgid(pid_of(bench, n)), signal.SIGKILL)


def test_cancel_kills_what_does_not_want_to_end(bench, monkeypatch):
    quick = "import agent.localserver as s; s.GRACE = 0.5; from pathlib import Path; import sys; "
    bench.queue()
    with (bench.spool / "server.log").open("a") as log:
        queue = bench.queue(max_running=0)
        text = "(trap '' TERM; sleep 60; :) & echo $! >child; echo $$ >pid; wait"
        stubborn = bench.script(1, text)
        # A server with a short grace, started as submit would.
        spool = Spool(bench.spool)
        monkeypatch.setattr(localqueue.LocalQueue, "_start_server", lambda self: None)
        job_id = queue.submit(stubborn, 1, "j")
        code = f"{quick}sys.exit(s.main(Path({str(spool.root)!r})))"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=log, stderr=log, check=True)
    child = int(wait_for(stubborn.with_name("child")))
    pid_of(bench, 1)
    begin = time.monotonic()
    assert queue.cancel(job_id)
    assert queue.wait_idle(10)
    assert 0.4 < time.monotonic() - begin < 5
    wait_gone(child)
    assert the(queue, job_id).state == "DONE"


def test_a_running_job_can_be_cancelled_after_its_server_was_killed(bench):
    queue = bench.queue()
    job_id = queue.submit(bench.script(1, "echo $$ >pid; exec sleep 60"), 1, "j")
    pid = pid_of(bench, 1)
    bench.stop_server(signal.SIGKILL)
    assert queue.cancel(job_id)
    wait_gone(pid)
    assert queue.wait_idle(10)
    assert states(queue) == {job_id: ("DONE", 143)}


def test_no_job_is_missed_by_a_server_that_leaves(bench, monkeypatch):
    """With no patience when idle, each submit comes while the server of the last one is leaving."""
    impatient = bench.directory / "python"
    impatient.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c 'import sys; from pathlib import Path; "
        'import agent.localserver as s; s.LINGER = 0.0; s.main(Path(sys.argv[3]))\' "$@"\n'
    )
    impatient.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(impatient))
    queue = bench.queue()
    for n in range(30):
        queue.submit(bench.script(n), n, "j")
        assert queue.wait_idle(10), n
        if n % 3:
            time.sleep(n % 20 / 4000)  # not a wait: to hit other moments of its leaving
    assert {status for _, status in states(queue).values()} == {0}
    assert len(states(queue)) == 30


def test_a_job_that_came_while_the_server_let_go_keeps_it(bench):
    """The client found the lock taken, so it started no server; this one had seen no job."""
    queue = bench.queue()
    with (bench.spool / "lock").open("a+") as lock, (bench.spool / "lock").open() as other:
        assert try_lock(lock)
        server = localserver.Server(Spool(bench.spool), lock)
        queue.submit(bench.script(1), 1, "j")
        assert not server._leave()
        assert not try_lock(other)
        assert bench.server == os.getpid()
        queue.cancel("1")
        assert server._leave()
        assert try_lock(other)


def test_a_job_that_ends_between_two_looks_at_it_is_not_lost(bench, monkeypatch):
    queue = bench.queue()
    with (bench.spool / "lock").open("a+") as lock:
        assert try_lock(lock)
        spool = Spool(bench.spool)
        job_id = queue.submit(bench.script(1), 1, "j")
        (key,) = spool.keys("pending")
        spool.path("pending", key).rename(spool.path("running", key))
        spool.note(key, ".start").write_text(me())

        def ends(_claim: str) -> None:
            spool.note(key, ".exit").write_text("7\n")

        monkeypatch.setattr(localserver, "living", ends)
        localserver.Server(spool, lock)._settle(key)
    assert states(queue) == {job_id: ("DONE", 7)}


def test_a_server_whose_spool_was_removed_leaves_the_new_one_alone(bench):
    queue = bench.queue()
    queue.submit(bench.script(1), 1, "j")
    assert queue.wait_idle(10)
    old = bench.server
    bench.spool.rename(bench.directory / "removed")
    queue = bench.queue()
    assert queue.submit(bench.script(2), 2, "j") == "1"
    assert queue.wait_idle(10)
    assert bench.server != old
    if old is not None:
        wait_gone(old, 5)


def test_the_server_survives_a_full_disk_and_hang_ups(bench):
    queue = bench.queue()
    done = bench.spool / "done"
    job_id = queue.submit(bench.script(1, "echo $$ >pid; sleep 0.2"), 1, "j")
    pid = pid_of(bench, 1)
    server = bench.server
    assert server is not None
    os.kill(server, signal.SIGHUP)
    done.rename(bench.spool / "away")  # no record can be written
    wait_gone(pid)
    assert "to be tried again" in wait_for(bench.spool / "server.log")
    (bench.spool / "away").rename(done)
    os.kill(server, signal.SIGUSR1)
    assert queue.wait_idle(10)
    assert bench.server == server
    assert states(queue) == {job_id: ("DONE", 0)}
