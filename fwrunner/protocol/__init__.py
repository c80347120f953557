"""The wire format between a compute node and the login node.

This module alone knows the names and the shapes of the files of a launch directory and of the
outbox. The runner writes them, the login node reads them; both import it from here. Standard library
only, Python 3.6+.

A launch directory holds ``FW.json`` and ``FW_offline.json`` (made by the login node), then what the
job adds: ``FW_ping.json`` and ``FW_action.json``. FireWorks 2.1 knows the first three; its
``lpad recover_offline`` reads ``FW_offline.json`` and ``FW_ping.json``, which therefore stay
complete. The key ``fwagent`` in ``FW_offline.json`` is ours: ``{"protocol": 1, "token": "...",
"outbox": "/path", "ping_interval": 60, "attempt": 1}``; the login node writes it (``outbox`` and
``ping_interval`` only if it wants to), the runner counts its starts in ``attempt``.

``FW_ping.json`` holds ``ping_time``, an ISO 8601 text, which is all that FireWorks reads; ours also has
``host``, ``pid`` (of the process to signal), ``job_id`` (the scheduler's, or null), ``task`` (its index), and
from the second ping on ``rss`` (bytes) and ``cpu`` (seconds) of all processes of the tasks.

The outbox is one directory per launch root into which runners drop self-contained reports by rename:
``<launch_id>.<token>.started.json`` once, ``<launch_id>.<token>.json`` at the end. A started entry
never replaces a final one, and a reader may delete either of them without touching the other. Names
that start with a dot are being written, or were left behind by a runner that was killed.
"""

import errno
import json
import os
import stat
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, NamedTuple, Optional, Union

if TYPE_CHECKING:
    # A job needs it seldom, and opens fewer files without: see benchmarks/runner.py.
    from datetime import datetime

PROTOCOL = 1

FW_JSON = "FW.json"
OFFLINE_JSON = "FW_offline.json"
PING_JSON = "FW_ping.json"
ACTION_JSON = "FW_action.json"
#: In the environment of a job: the launch that it was submitted for.
LAUNCH_VARIABLE = "FWAGENT_LAUNCH_ID"
OUTBOX_PATH = os.path.join(".fwagent", "outbox")

#: Below the home directory; the entries are named as those of the outbox.
RESCUE_PATH = os.path.join(".fwagent", "rescue")

#: The reason of a NotYet that is as it should be: the job has not begun.
STAGED = "staged, not started"

FINAL_STATES = ("COMPLETED", "FIZZLED")
REPORT_STATES = ("RUNNING",) + FINAL_STATES

#: Bytes of JSON of the largest action that a job can report, of all its tasks together.
MAX_ACTION_SIZE = 64 * 1024 * 1024

#: Bytes of JSON of the largest checkpoint: a launch holds it twice, in a document of 16 MiB.
MAX_CHECKPOINT_SIZE = 7 * 1024 * 1024

#: Bytes of the largest file that is read from a launch directory, decompressed: an action, a checkpoint,
#: and some for the rest.
MAX_REPORT_SIZE = 80 * 1024 * 1024

#: The database stores no larger integer (nor a smaller one than its negative).
MAX_INT = 2**63 - 1

# FireWorks finds these after the plain name, in this order: its CompressDirTask makes them.
_COMPRESSED = (".gz", ".GZ", ".bz2", ".BZ2", ".z", ".Z")

Document = Dict[str, Any]


class NotYet(NamedTuple):
    """Nothing to tell yet. Never a failure: the same place is looked at again."""

    launch_dir: str
    reason: str


class Report(NamedTuple):
    """What a launch directory, or an entry of the outbox, tells about one launch.

    ``state`` is RUNNING, COMPLETED or FIZZLED. Times are ISO 8601 texts as they were found, naive
    ones meaning UTC. ``checkpoint`` and ``fwaction`` are FireWorks' objects, passed through as
    opaque JSON. ``fw_id`` and ``token`` are None in a directory that stock ``rlaunch`` wrote, ``fw_id``
    also where the job found no Firework in ``FW.json``.
    ``trackers`` is {filename: its end, as text} of files that the launch tracks.
    """

    launch_id: int
    state: str
    launch_dir: str
    fw_id: Optional[int] = None
    token: Optional[str] = None
    started_on: Optional[str] = None
    completed_on: Optional[str] = None
    ping_time: Optional[str] = None
    checkpoint: Optional[Document] = None
    fwaction: Optional[Document] = None
    host: Optional[str] = None
    attempt: int = 1
    trackers: Optional[Document] = None

    @property
    def final(self) -> bool:
        """Whether the launch has ended."""
        return self.state in FINAL_STATES


class Unreadable(Exception):
    """A file is there but says nothing that may be believed now: torn, foreign, too large."""


class _Limits(NamedTuple):
    max_size: int
    owner: Optional[int]


def utcnow() -> "datetime":
    """Return the time of this host, aware, in UTC."""
    from datetime import datetime, timezone

    return datetime.now(timezone.utc)


def timestamp() -> str:
    """Return now as FireWorks writes times: ISO 8601, UTC, microseconds unless exactly 0."""
    seconds, microseconds = divmod(round(time.time() * 1e6), 1000000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{microseconds:06}+00:00" if microseconds else f"{text}+00:00"


def outbox_name(launch_id: int, token: str, final: bool) -> str:
    """Return the file name of an outbox entry; raise ValueError if it could be no plain name."""
    if not token.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"the token {token!r:.40} is no plain name")
    return f"{launch_id:d}.{token}{'' if final else '.started'}.json"


def write_atomic(path: str, document: Document) -> None:
    """Write a JSON document so that a reader sees the old file or the whole new one.

    That holds after a power cut too. Raises TypeError or ValueError, before anything is touched, if
    the document cannot be written as JSON, and OSError if the file system refuses; the old file is
    then still there.
    """
    data = json.dumps(document).encode("ascii")
    directory, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(directory, f".{name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            if mode & 0o600 != 0o600:  # by the umask: nobody could read it
                os.fchmod(stream.fileno(), mode | 0o600)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        _unlink_quietly(temporary)
        raise
    _sync_directory(directory)


def read_json(path: str, max_size: int = MAX_REPORT_SIZE, owner: Optional[int] = None) -> Document:
    """Read a JSON object from a regular file of ours, trusting nothing.

    ``owner`` is the user id that the file must belong to; by default the effective one of this
    process. Raises FileNotFoundError if the file or its directory is not there (yet), Unreadable in
    all other cases.
    """
    return _read_json(path, _Limits(max_size, owner))


def read_offline(
    launch_dir: str, max_size: int = MAX_REPORT_SIZE, owner: Optional[int] = None
) -> Document:
    """Read ``FW_offline.json``, or what a task that compresses files made of it. Raises likewise."""
    return _read_offline(launch_dir, _Limits(max_size, owner))


def read_report(
    launch_dir: str, max_size: int = MAX_REPORT_SIZE, owner: Optional[int] = None
) -> Union[NotYet, Report]:
    """Return what a launch directory tells: NotYet, or a Report. Never raises.

    The final report of ``fwrunner`` is ``FW_action.json``; that of stock ``rlaunch`` is inside
    ``FW_offline.json``. An ``FW_action.json`` left behind by an earlier launch in the same directory
    is passed over, since it names another launch.
    """
    limits = _Limits(max_size, owner)
    try:
        offline = _read_offline(launch_dir, limits)
    except (FileNotFoundError, Unreadable) as error:
        # FW_action.json is self-contained: an FW_offline.json that a full disk tore must not hide it.
        final = _read_final(launch_dir, limits)
        reason = getattr(error, "strerror", None) or str(error)
        return final if isinstance(final, Report) else NotYet(launch_dir, reason)
    final = _read_final(launch_dir, limits)
    if isinstance(final, Report) and same_launch(offline, final.launch_id, final.token):
        return final
    return _report_from_offline(launch_dir, offline, limits)


def read_ping(
    launch_dir: str, max_size: int = MAX_REPORT_SIZE, owner: Optional[int] = None
) -> Document:
    """Return what ``FW_ping.json`` tells: the keys named above, as far as they make sense. Never raises."""
    try:
        ping = _read_json(os.path.join(launch_dir, PING_JSON), _Limits(max_size, owner))
    except (FileNotFoundError, Unreadable):
        return {}
    texts = {key: ping[key] for key in _PING_TEXTS if isinstance(ping.get(key), str)}
    numbers = {key: ping[key] for key in _PING_NUMBERS if type(ping.get(key)) in (int, float)}
    return dict(texts, **{key: n for key, n in numbers.items() if 0 <= n <= MAX_INT})


def read_outbox_entry(
    path: str, max_size: int = MAX_REPORT_SIZE, owner: Optional[int] = None
) -> Union[NotYet, Report]:
    """Return what an outbox entry (or an ``FW_action.json``) tells. Never raises."""
    try:
        return parse_report(read_json(path, max_size, owner))
    except (FileNotFoundError, Unreadable) as error:
        return NotYet(path, getattr(error, "strerror", None) or str(error))


def spoilt_final(
    launch_dir: str, max_size: int = MAX_REPORT_SIZE, owner: Optional[int] = None
) -> str:
    """Return why the ``FW_action.json`` of a launch directory cannot be read, "" if it can or is not there.

    ``read_report`` tells what was true before, as if there were none: that is safe, but nobody should wait for ever.
    """
    try:
        parse_report(read_json(os.path.join(launch_dir, ACTION_JSON), max_size, owner))
    except FileNotFoundError:
        return ""
    except Unreadable as error:
        text = str(error)
        return text if ACTION_JSON in text else f"{ACTION_JSON}: {text}"
    return ""


def parse_json(data: bytes, name: str) -> Document:
    """Return the JSON object that a file of this name holds; raise Unreadable."""
    try:
        document = json.loads(data.decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        problem = "half-written or not JSON" if data.strip() else "empty"
        raise Unreadable(f"{name} is {problem}") from None
    except RecursionError:
        raise Unreadable(f"{name} is nested deeper than Python can read") from None
    except ValueError:  # Python reads no number of more than some thousand digits
        raise Unreadable(f"{name} holds an integer of more digits than Python can read") from None
    if not isinstance(document, dict):
        raise Unreadable(f"{name} holds no JSON object")
    return document


def parse_report(document: Document) -> Report:
    """Return the Report that a self-contained document of ours holds; raise Unreadable if none."""
    _check_protocol(document)
    values = {name: document[name] for name in Report._fields if document.get(name) is not None}
    for name in ("launch_id", "state", "launch_dir", "token", "attempt"):
        if name not in values:
            raise Unreadable(f"the report has no {name!r}")
    return _checked(Report(**values))


def write_report(path: str, report: Report) -> None:
    """Write a self-contained report (``FW_action.json``, outbox). Raises as ``write_atomic`` does."""
    write_atomic(path, document_of(report))


def document_of(report: Report) -> Document:
    """Return the self-contained document of a report, as it is written."""
    document = {name: value for name, value in report._asdict().items() if value is not None}
    return dict(document, protocol=PROTOCOL)


def same_launch(offline: Document, launch_id: int, token: Optional[str]) -> bool:
    """Tell whether an ``FW_offline.json`` speaks of this launch; one without a token may be any."""
    ours = offline.get("fwagent")
    its_token = ours.get("token") if isinstance(ours, dict) else None
    return offline.get("launch_id") == launch_id and its_token in (None, token)


def _check_protocol(document: Document) -> None:
    protocol = document.get("protocol", PROTOCOL)
    if protocol != PROTOCOL:
        raise Unreadable(
            f"written by another fwrunner (protocol {protocol!r:.40}, not {PROTOCOL}): "
            "have the same version of fwagent on the login node and in the job"
        )


def _read_json(path: str, limits: _Limits, suffix: str = "") -> Document:
    return parse_json(_read_bytes(path + suffix, limits, suffix), os.path.basename(path) + suffix)


def _read_offline(launch_dir: str, limits: _Limits) -> Document:
    path = os.path.join(launch_dir, OFFLINE_JSON)
    for suffix in ("",) + _COMPRESSED:
        try:
            return _read_json(path, limits, suffix)
        except FileNotFoundError:
            continue
    raise FileNotFoundError(errno.ENOENT, f"no {OFFLINE_JSON}", path)


def _read_final(launch_dir: str, limits: _Limits) -> Union[NotYet, Report]:
    report = read_outbox_entry(os.path.join(launch_dir, ACTION_JSON), *limits)
    if isinstance(report, NotYet):
        return report
    if not report.final:
        return NotYet(launch_dir, f"{ACTION_JSON} holds no final state")
    return report._replace(launch_dir=launch_dir)


def _report_from_offline(
    launch_dir: str, offline: Document, limits: _Limits
) -> Union[NotYet, Report]:
    final = "fwaction" in offline
    if not final and offline.get("started_on") is None:
        return NotYet(launch_dir, STAGED)
    ours = offline.get("fwagent")
    values: Document = {"attempt": None, "token": None}
    if isinstance(ours, dict):
        values.update((name, ours[name]) for name in values if name in ours)
    values["attempt"] = 1 if values["attempt"] is None else values["attempt"]
    for name in ("launch_id", "started_on", "checkpoint", "fwaction"):
        values[name] = offline.get(name)
    values["state"] = offline.get("state") if final else "RUNNING"
    values["completed_on"] = offline.get("completed_on") if final else None
    values["ping_time"] = read_ping(launch_dir, *limits).get("ping_time")
    try:
        _check_protocol(ours if isinstance(ours, dict) else {})
        return _checked(Report(launch_dir=launch_dir, **values))
    except Unreadable as error:
        return NotYet(launch_dir, f"{OFFLINE_JSON}: {error}")


_PING_TEXTS = ("ping_time", "host", "job_id")
_PING_NUMBERS = ("pid", "task", "rss", "cpu")

_TYPES: Dict[str, type] = dict.fromkeys(Report._fields, str)
_TYPES.update(launch_id=int, fw_id=int, attempt=int, checkpoint=dict, fwaction=dict, trackers=dict)


def _checked(report: Report) -> Report:
    for name, value in report._asdict().items():
        if value is None and name not in ("launch_id", "state", "launch_dir", "attempt"):
            continue
        if not isinstance(value, _TYPES[name]) or isinstance(value, bool):
            raise Unreadable(f"{name!r} is {type(value).__name__!r}, not {_TYPES[name].__name__}")
        if isinstance(value, int) and abs(value) > MAX_INT:
            raise Unreadable(f"{name!r} is larger than the database can store")
    if report.state not in REPORT_STATES:
        raise Unreadable(f"'state' is {report.state!r:.40}, not one of {', '.join(REPORT_STATES)}")
    if report.final != (report.fwaction is not None):
        raise Unreadable(f"state {report.state} {'without' if report.final else 'with'} 'fwaction'")
    return report


def _read_bytes(path: str, limits: _Limits, suffix: str) -> bytes:
    name = os.path.basename(path)
    try:
        with open(path, "rb", opener=_open_safely) as stream:
            status = os.fstat(stream.fileno())
            _check_file(status, name, limits)
            # What is asked for is allocated at once. A file that grows meanwhile is being written.
            most = limits.max_size if suffix else status.st_size
            read = _decompressed(stream, suffix) if suffix else stream.read
            data = read(most + 1)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, f"no {name}", path) from None
    except (OSError, EOFError, ValueError, ImportError) as error:
        if getattr(error, "errno", None) == errno.ELOOP:
            raise Unreadable(
                f"{name} is a symbolic link, and none is followed: put the file there"
            ) from None
        raise Unreadable(f"{name}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > limits.max_size:
        raise Unreadable(f"{name} is larger than {limits.max_size} bytes")
    return data


def _open_safely(path: str, flags: int) -> int:
    # O_NONBLOCK: a FIFO planted under this name must not hang the reader.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _decompressed(stream: Any, suffix: str) -> Callable[[int], bytes]:
    # Imported here: a compute node needs none of them, and starts sooner without.
    if suffix.lower() == ".bz2":
        import bz2

        return bz2.BZ2File(stream).read
    import gzip
    import zlib

    def read(size: int) -> bytes:
        try:
            return gzip.GzipFile(fileobj=stream).read(size)
        except zlib.error as error:
            raise ValueError(str(error)) from None

    return read


def _check_file(status: os.stat_result, name: str, limits: _Limits) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable(f"{name} is not a regular file")
    if status.st_uid != (os.geteuid() if limits.owner is None else limits.owner):
        raise Unreadable(f"{name} belongs to user {status.st_uid}, not to us")
    if status.st_size > limits.max_size:
        raise Unreadable(f"{name} is larger than {limits.max_size} bytes")


def _unlink_quietly(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _sync_directory(directory: str) -> None:
    # The rename is already visible; some network file systems refuse to sync a directory.
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
