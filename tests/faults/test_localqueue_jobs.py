"""The local queue with real processes; what happens when they are killed is in test_localqueue.py."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent import localserver, localspool
from agent.localqueue import LocalQueue, LocalQueueError
from agent.localspool import living, me
from tests.support.localqueue import Bench, states, the, wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def intervals(directory: Path) -> list[tuple[int, int]]:
    """When each job ran, as it noted itself."""
    return [
        (int(begin), int(end))
        for begin, end in (path.read_text().split() for path in directory.glob("launcher_*/times"))
    ]


def test_jobs_run_in_order_at_most_max_running_at_once(bench):
    queue = bench.queue(max_running=2)
    text = "date +%s%N >times; sleep 0.05; date +%s%N >>times; echo $PWD >>../order"
    job_ids = [queue.submit(bench.script(n, text), n, "job") for n in range(1, 9)]
    assert queue.wait_idle(20)
    assert states(queue) == dict.fromkeys(job_ids, ("DONE", 0))
    ran = intervals(bench.directory)
    assert len(ran) == 8
    overlaps = [sum(begin <= other < end for begin, end in ran) for other, _ in ran]
    assert max(overlaps) == 2


def test_one_at_a_time_runs_in_the_order_of_submission(bench):
    queue = bench.queue(max_running=1)
    for n in range(1, 13):
        queue.submit(bench.script(n, "basename $PWD >>../order"), n, "job")
    assert queue.wait_idle(20)
    assert (bench.directory / "order").read_text().split() == [
        f"launcher_{n}" for n in range(1, 13)
    ]
    assert [job.job_id for job in queue.jobs()] == [str(n) for n in range(1, 13)]


def test_exit_statuses_and_output_files(bench):
    queue = bench.queue()
    missing = bench.directory / "gone" / "FW_submit.script"
    expected = {
        queue.submit(bench.script(1, "echo out; echo err >&2; exit 3"), 1, "a b/ü"): 3,
        queue.submit(bench.script(2, "kill -KILL $$"), 2, "j"): 137,
        queue.submit(bench.script(3, f"#!{sys.executable} -S\nraise SystemExit(5)"), 3, "j"): 5,
        queue.submit(bench.script(4, "#!/no/such/shell -l"), 4, "j"): 127,
        queue.submit(missing, 5, ""): 126,
    }
    assert queue.wait_idle(20)
    assert states(queue) == {job_id: ("DONE", status) for job_id, status in expected.items()}
    first = queue.jobs()[0]
    assert first.launch_id == 1
    assert Path(first.launch_dir, "a_b_-1.out").read_text() == "out\n"
    assert Path(first.launch_dir, "a_b_-1.error").read_text() == "err\n"


def test_a_job_has_no_terminal_no_descriptors_and_no_blocked_signals(bench, monkeypatch):
    monkeypatch.setenv("FWAGENT_LAUNCHPAD_URI", "secret")
    monkeypatch.setenv("PLAIN", "plain")
    text = "ls -l /proc/$$/fd >fds; grep -E '^Sig(Blk|Ign)' /proc/self/status >signals; env >env"
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    queue = bench.queue()
    script = bench.script(1, text + "; ps -o sid=,pgid= $$ >ids")
    queue.submit(script, 1, "j", environment={"MORE": "m o r e", "FWAGENT_LAUNCHPAD_X": "secret"})
    os.close(write_end)
    assert queue.wait_idle(10)
    assert os.read(read_end, 1) == b"", "the server or a job holds our pipe"
    os.close(read_end)
    found = {
        name: (script.parent / name).read_text().split()
        for name in ("fds", "signals", "env", "ids")
    }
    targets = [word for word in found["fds"] if word.startswith(("/", "pipe:", "socket:", "anon"))]
    allowed = ("/dev/null", "j-1.out", "j-1.error", "FW_submit.script", "fds")
    assert all(target.endswith(allowed) for target in targets), targets
    mask = int(found["signals"][1], 16) | int(found["signals"][3], 16)
    assert mask & 0x7FFFFFFF == 0, found["signals"]
    assert "PLAIN=plain" in found["env"]
    assert "MORE=m" in found["env"]
    assert "secret" not in (script.parent / "env").read_text()
    assert found["ids"][0] == found["ids"][1] != str(os.getsid(0))
    bench.stop_server()
    stored = [path for path in bench.spool.rglob("*.json") if "m o r e" in path.read_text()]
    assert not stored, "the environment stays behind"


def test_who_captures_the_output_of_a_submit_does_not_wait_for_its_job(bench):
    script = bench.script(1, "sleep 60")
    code = (
        "import sys; from pathlib import Path; from agent.localqueue import LocalQueue\n"
        "print(LocalQueue(Path(sys.argv[1])).submit(Path(sys.argv[2]), 1, 'j'))"
    )
    command = [sys.executable, "-c", code, str(bench.spool), str(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=20, check=True)
    assert done.stdout == b"1\n"
    assert [job.state for job in bench.queue().jobs()] in (["RUNNING"], ["PENDING"])


def test_a_launch_in_the_queue_is_not_submitted_again(bench):
    queue = bench.queue(max_running=1)
    os.mkfifo(bench.directory / "go")
    waits, does_not = bench.script(1, "read x <../go"), bench.script(2)
    first = queue.submit(waits, 1, "j")
    second = queue.submit(does_not, 2, "j")
    assert queue.submit(waits, 1, "j") == first
    assert bench.queue(1).submit(does_not, 2, "j") == second
    (bench.directory / "go").write_text("x\n")
    assert queue.wait_idle(10)
    assert queue.submit(bench.script(1), 1, "j") == "3"
    assert queue.wait_idle(10)


def test_ids_are_not_used_twice_and_cancelled_jobs_go(bench):
    queue = bench.queue(max_running=1)
    running = queue.submit(bench.script(1, "echo $$ >pid; exec sleep 60"), 1, "j")
    pending = queue.submit(bench.script(2), 2, "j")
    wait_for(bench.directory / "launcher_1" / "pid")
    assert queue.cancel(pending)
    assert not queue.cancel(pending)
    assert not queue.cancel("99")
    assert queue.submit(bench.script(3), 3, "j") == "3"
    assert queue.cancel(running)
    assert queue.wait_idle(10)
    assert states(queue) == {"1": ("DONE", 143), "3": ("DONE", 0)}
    assert not (bench.directory / "launcher_2" / "j-2.out").exists()


def test_a_new_limit_counts_at_once(bench):
    queue = bench.queue(max_running=1)
    os.mkfifo(bench.directory / "go")
    for n in (1, 2, 3):
        queue.submit(bench.script(n, "echo $$ >pid; read x <../go"), n, "j")
    wait_for(bench.directory / "launcher_1" / "pid")
    assert [job.state for job in queue.jobs()] == ["RUNNING", "PENDING", "PENDING"]
    bench.queue(max_running=0).ensure_server()
    for n in (2, 3):
        wait_for(bench.directory / f"launcher_{n}" / "pid")


def test_many_submits_from_two_processes_at_once(bench):
    """Both submit the same 100 launches: each runs once, and both got the same ids."""
    for n in range(100):
        bench.script(n, "echo ran >>ran")
    os.mkfifo(bench.directory / "go")
    blocker = bench.queue(1).submit(bench.script(999, "read x <../go"), 999, "j")
    code = f"""
import sys, time
from pathlib import Path
from agent.localqueue import LocalQueue
queue = LocalQueue(Path({str(bench.spool)!r}), 1)
base = Path({str(bench.directory)!r})
for n in range(100):
    print(queue.submit(base / f"launcher_{{n}}" / "FW_submit.script", n, "j"))
"""

    def submit(_: int) -> list[str]:
        command = [sys.executable, "-c", code]
        return subprocess.check_output(command, cwd=ROOT, text=True, timeout=60).split()

    with ThreadPoolExecutor() as pool:
        one, other = pool.map(submit, range(2))
    assert one == other
    queue = bench.queue()
    assert len(queue.jobs()) == 101
    (bench.directory / "go").write_text("x\n")
    queue.ensure_server()
    assert queue.wait_idle(30)
    assert states(queue) == dict.fromkeys([blocker, *one], ("DONE", 0))
    assert {path.read_text() for path in bench.directory.glob("*/ran")} == {"ran\n"}


def test_what_is_foreign_or_broken_is_set_aside(bench):
    queue = bench.queue(max_running=1)
    (bench.spool / "pending" / "README").write_text("hello")
    (bench.spool / "pending" / "7-7.json").write_text('{"script": ')
    (bench.spool / "pending" / "8-8.json").write_text('{"script": 1}')
    (bench.spool / "running" / "9-9.json").mkdir()
    (bench.spool / "done" / "5-5.json").write_text("[]")
    (bench.spool / "limit.json").write_text("null")
    job_id = queue.submit(bench.script(1), 1, "j")
    assert job_id == "10"
    assert queue.wait_idle(10)
    assert states(queue) == {"10": ("DONE", 0)}
    names = {path.name for path in (bench.spool / "broken").iterdir()}
    assert names == {"README", "7-7.json", "8-8.json", "9-9.json", "5-5.json"}


def test_a_spool_that_others_can_enter_is_refused(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    for name in ("open", "link"):
        with pytest.raises(LocalQueueError, match="yours alone") as caught:
            LocalQueue(tmp_path / name)
        assert "chmod 700" in caught.value.hint
    LocalQueue(tmp_path / "new" / "spool")
    assert (tmp_path / "new" / "spool").stat().st_mode & 0o777 == 0o700


def test_a_submit_that_cannot_have_a_server_leaves_no_job(bench, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    queue = bench.queue()
    with pytest.raises(LocalQueueError, match="does not start"):
        queue.submit(bench.script(1), 1, "j")
    monkeypatch.setattr(sys, "executable", str(bench.directory / "nowhere"))
    with pytest.raises(LocalQueueError, match="cannot be used"):
        queue.submit(bench.script(1), 1, "j")
    assert queue.jobs() == []


def test_the_newest_ended_jobs_are_kept(bench, monkeypatch):
    spool, queue = localspool.Spool(bench.spool), bench.queue()
    queue.submit(bench.script(1), 1, "j")
    assert queue.wait_idle(10)
    bench.stop_server()
    record = spool.path("done", "1-1").read_text()
    for n in range(2, localserver.KEEP_DONE + 5):
        spool.path("done", f"{n}-{n}").write_text(record)
    assert queue.submit(bench.script(1), 1, "j") == str(localserver.KEEP_DONE + 5)
    assert queue.wait_idle(10)
    bench.stop_server()
    jobs = queue.jobs()
    assert len(jobs) == localserver.KEEP_DONE
    assert jobs[-1].job_id == str(localserver.KEEP_DONE + 5)


def test_the_log_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(localspool, "LOG_SIZE", 1000)
    spool = localspool.Spool(tmp_path)
    for _ in range(200):
        with spool.open_log() as log:
            log.write("x" * 99 + "\n")
    assert sum(path.stat().st_size for path in tmp_path.glob("server.log*")) <= 2200


def test_a_process_is_known_by_more_than_its_id():
    assert living(me()) == os.getpid()
    head, _, tail = me().rpartition(")")
    fields = tail.split()
    fields[19] = str(int(fields[19]) + 1)
    assert living(f"{head}) {' '.join(fields)}") is None
    for line in ("", "x", "0", "-1", "1", "9" * 30):
        assert living(line) is None


def test_the_server_leaves_when_idle_and_wait_idle_is_bounded(bench):
    queue = bench.queue()
    job_id = queue.submit(bench.script(1, "sleep 60"), 1, "j")
    begin = time.monotonic()
    assert not queue.wait_idle(0.2)
    assert time.monotonic() - begin < 2
    queue.cancel(job_id)
    assert queue.wait_idle(10)
    assert the(queue, job_id).exit_status == 143
