"""The wire format between a compute node and the login node.

This module alone knows the names and the shapes of the files of a launch directory and of the outbox. The
runner writes them, the login node reads them; both import it from here. Standard library only, Python 3.6+.

A launch directory holds ``FW.json`` and ``FW_offline.json`` (made by the login node), then what the job adds:
``FW_ping.json`` and ``FW_action.json``. FireWorks 2.1 knows the first three; its ``lpad recover_offline`` reads
``FW_offline.json`` and ``FW_ping.json``, which therefore stay complete. The key ``fwagent`` in
``FW_offline.json`` is ours: ``{"protocol": 1, "outbox": "/path", "token": "..."}``.

The outbox is one directory per launch root into which runners drop self-contained reports by rename:
``<launch_id>.<token>.started.json`` once, ``<launch_id>.<token>.json`` at the end. A started entry never
replaces a final one, and a reader may delete either of them without touching the other.
"""

import bz2
import errno
import gzip
import json
import os
import stat
from datetime import datetime, timezone
from typing import Any, Dict, NamedTuple, Optional, Union

PROTOCOL = 1

FW_JSON = "FW.json"
OFFLINE_JSON = "FW_offline.json"
PING_JSON = "FW_ping.json"
ACTION_JSON = "FW_action.json"
OUTBOX_PATH = os.path.join(".fwagent", "outbox")

FINAL_STATES = ("COMPLETED", "FIZZLED")
REPORT_STATES = ("RUNNING",) + FINAL_STATES

#: Bytes of the largest file that is read from a launch directory, decompressed.
MAX_REPORT_SIZE = 64 * 1024 * 1024

# FireWorks finds these after the plain name, in this order: its CompressDirTask makes them (monty's zpath).
_COMPRESSED = (
    (".gz", gzip.open), (".GZ", gzip.open), (".bz2", bz2.open), (".BZ2", bz2.open), (".z", gzip.open), (".Z", gzip.open),
)  # fmt: skip

Document = Dict[str, Any]


class NotYet(NamedTuple):
    """Nothing to tell yet. Never a failure: the same place is looked at again."""

    launch_dir: str
    reason: str


class Report(NamedTuple):
    """What a launch directory, or an entry of the outbox, tells about one launch.

    ``state`` is RUNNING, COMPLETED or FIZZLED. Times are ISO 8601 texts as they were found, naive ones meaning
    UTC. ``checkpoint`` and ``fwaction`` are FireWorks' objects, passed through as opaque JSON. ``fw_id`` and
    ``token`` are None in a directory that stock ``rlaunch`` wrote.
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

    @property
    def final(self):
        # type: () -> bool
        """Whether the launch has ended."""
        return self.state in FINAL_STATES


class Unreadable(Exception):
    """A file is there but says nothing that may be believed now: torn, foreign, too large."""


def utcnow():
    # type: () -> datetime
    """Return the time of this host, aware, in UTC."""
    return datetime.now(timezone.utc)


def timestamp():
    # type: () -> str
    """Return now as FireWorks writes times: ISO 8601, UTC, microseconds unless exactly 0."""
    return utcnow().isoformat()


def outbox_name(launch_id, token, final):
    # type: (int, str, bool) -> str
    """Return the file name of an outbox entry."""
    return "{}.{}{}.json".format(launch_id, token, "" if final else ".started")


def write_atomic(path, document):
    # type: (str, Document) -> None
    """Write a JSON document so that a reader sees the old file or the whole new one, also after a power cut.

    Raises TypeError or ValueError, before anything is touched, if the document cannot be written as JSON, and
    OSError if the file system refuses; the old file is then still there.
    """
    data = json.dumps(document).encode("ascii")
    directory, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(directory, ".{}.{}.{}.tmp".format(name, os.getpid(), os.urandom(4).hex()))
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        _unlink_quietly(temporary)
        raise
    _sync_directory(directory)


def read_json(path, max_size=MAX_REPORT_SIZE, owner=None):
    # type: (str, int, Optional[int]) -> Document
    """Read a JSON object from a regular file of ours, trusting nothing.

    ``owner`` is the user id that the file must belong to; by default the effective one of this process.
    Raises FileNotFoundError if the file or its directory is not there (yet), Unreadable in all other cases.
    """
    return _parse(_read_bytes(path, max_size, owner), os.path.basename(path))


def read_report(launch_dir, max_size=MAX_REPORT_SIZE, owner=None):
    # type: (str, int, Optional[int]) -> Union[NotYet, Report]
    """Return what a launch directory tells: NotYet, or a Report of a started or ended launch. Never raises.

    The final report of ``fwrunner`` is ``FW_action.json``; that of stock ``rlaunch`` is inside
    ``FW_offline.json``. An ``FW_action.json`` left behind by an earlier launch in the same directory is passed
    over, since it names another launch.
    """
    try:
        offline = _read_offline(launch_dir, max_size, owner)
    except (FileNotFoundError, Unreadable) as error:
        return _final_without_offline(launch_dir, max_size, owner, str(error))
    final = _read_final(launch_dir, max_size, owner)
    if isinstance(final, Report) and _same_launch(offline, final):
        return final
    return _report_from_offline(launch_dir, offline, max_size, owner)


def read_outbox_entry(path, max_size=MAX_REPORT_SIZE, owner=None):
    # type: (str, int, Optional[int]) -> Union[NotYet, Report]
    """Return what an outbox entry (or an ``FW_action.json``) tells. Never raises."""
    try:
        return parse_report(read_json(path, max_size, owner))
    except (FileNotFoundError, Unreadable) as error:
        return NotYet(path, str(error))


def parse_report(document):
    # type: (Document) -> Report
    """Return the Report that a self-contained document of ours holds; raise Unreadable if it holds none."""
    if document.get("protocol", PROTOCOL) != PROTOCOL:
        raise Unreadable("written by another fwrunner (protocol {!r}, this is {})".format(document["protocol"], PROTOCOL))
    values = {name: document.get(name) for name in Report._fields if document.get(name) is not None}
    for name in ("launch_id", "fw_id", "state", "launch_dir", "token", "attempt"):
        if name not in values:
            raise Unreadable("the report has no {!r}".format(name))
    return _checked(Report(**values))


def write_report(path, report):
    # type: (str, Report) -> None
    """Write a self-contained report: ``FW_action.json`` or an outbox entry. Raises as ``write_atomic`` does."""
    document = {name: value for name, value in report._asdict().items() if value is not None}
    write_atomic(path, dict(document, protocol=PROTOCOL))


def _read_offline(launch_dir, max_size, owner):
    # type: (str, int, Optional[int]) -> Document
    path = os.path.join(launch_dir, OFFLINE_JSON)
    try:
        return read_json(path, max_size, owner)
    except FileNotFoundError as missing:
        for suffix, opener in _COMPRESSED:
            try:
                return _parse(_read_bytes(path + suffix, max_size, owner, opener), OFFLINE_JSON + suffix)
            except FileNotFoundError:
                continue
        raise missing


def _read_final(launch_dir, max_size, owner):
    # type: (str, int, Optional[int]) -> Union[NotYet, Report]
    report = read_outbox_entry(os.path.join(launch_dir, ACTION_JSON), max_size, owner)
    if isinstance(report, NotYet):
        return report
    if not report.final:
        return NotYet(launch_dir, "{} holds no final state".format(ACTION_JSON))
    return report._replace(launch_dir=launch_dir)


def _final_without_offline(launch_dir, max_size, owner, reason):
    # type: (str, int, Optional[int], str) -> Union[NotYet, Report]
    # FW_action.json is self-contained: an FW_offline.json that a full disk tore must not hide it.
    final = _read_final(launch_dir, max_size, owner)
    return final if isinstance(final, Report) else NotYet(launch_dir, reason)


def _same_launch(offline, report):
    # type: (Document, Report) -> bool
    ours = offline.get("fwagent")
    token = ours.get("token") if isinstance(ours, dict) else None
    return offline.get("launch_id") == report.launch_id and token in (None, report.token)


def _report_from_offline(launch_dir, offline, max_size, owner):
    # type: (str, Document, int, Optional[int]) -> Union[NotYet, Report]
    final = "fwaction" in offline
    if not final and offline.get("started_on") is None:
        return NotYet(launch_dir, "staged, not started")
    ours = offline.get("fwagent")
    report = Report(
        launch_id=offline.get("launch_id"),  # type: ignore
        state=offline.get("state") if final else "RUNNING",  # type: ignore
        launch_dir=launch_dir,
        token=ours.get("token") if isinstance(ours, dict) else None,
        started_on=offline.get("started_on"),
        completed_on=offline.get("completed_on") if final else None,
        ping_time=_read_ping(launch_dir, max_size, owner),
        checkpoint=offline.get("checkpoint"),
        fwaction=offline.get("fwaction"),
    )
    try:
        return _checked(report)
    except Unreadable as error:
        return NotYet(launch_dir, "{}: {}".format(OFFLINE_JSON, error))


def _read_ping(launch_dir, max_size, owner):
    # type: (str, int, Optional[int]) -> Optional[str]
    try:
        ping_time = read_json(os.path.join(launch_dir, PING_JSON), max_size, owner).get("ping_time")
    except (FileNotFoundError, Unreadable):
        return None
    return ping_time if isinstance(ping_time, str) else None


_TYPES = {
    "launch_id": int, "fw_id": int, "attempt": int, "state": str, "launch_dir": str, "token": str, "started_on": str,
    "completed_on": str, "ping_time": str, "host": str, "checkpoint": dict, "fwaction": dict,
}  # fmt: skip


def _checked(report):
    # type: (Report) -> Report
    for name, value in report._asdict().items():
        required = name in ("launch_id", "state", "launch_dir")
        if value is None and not required:
            continue
        if not isinstance(value, _TYPES[name]) or isinstance(value, bool):
            raise Unreadable("{!r} is {!r}, not {}".format(name, type(value).__name__, _TYPES[name].__name__))
    if report.state not in REPORT_STATES:
        raise Unreadable("'state' is {!r:.40}, not one of {}".format(report.state, ", ".join(REPORT_STATES)))
    if report.final and report.fwaction is None:
        raise Unreadable("a final report without 'fwaction'")
    if not report.final and report.fwaction is not None:
        raise Unreadable("an 'fwaction' in a report that is not final")
    return report


def _read_bytes(path, max_size, owner, opener=None):
    # type: (str, int, Optional[int], Any) -> bytes
    name = os.path.basename(path)
    try:
        # O_NONBLOCK: a FIFO planted under this name must not hang the reader.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no {}".format(name), path)
    except (OSError, ValueError) as error:
        raise Unreadable("{}: {}".format(name, getattr(error, "strerror", None) or error))
    with os.fdopen(descriptor, "rb") as stream:
        try:
            _check_file(os.fstat(stream.fileno()), name, max_size, owner)
            data = opener(stream).read(max_size + 1) if opener else stream.read(max_size + 1)
        except (OSError, EOFError, ValueError) as error:
            raise Unreadable("{}: {}".format(name, error))
    if len(data) > max_size:
        raise Unreadable("{} is larger than {} bytes".format(name, max_size))
    return data  # type: ignore


def _check_file(status, name, max_size, owner):
    # type: (os.stat_result, str, int, Optional[int]) -> None
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable("{} is not a regular file".format(name))
    if status.st_uid != (os.geteuid() if owner is None else owner):
        raise Unreadable("{} belongs to user {}, not to us".format(name, status.st_uid))
    if status.st_size > max_size:
        raise Unreadable("{} is larger than {} bytes".format(name, max_size))


def _parse(data, name):
    # type: (bytes, str) -> Document
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Unreadable("{} is {}".format(name, "half-written or not JSON" if data.strip() else "empty"))
    if not isinstance(document, dict):
        raise Unreadable("{} holds no JSON object".format(name))
    return document


def _unlink_quietly(path):
    # type: (str) -> None
    try:
        os.unlink(path)
    except OSError:
        pass


def _sync_directory(directory):
    # type: (str) -> None
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
