"""A real ``systemd --user`` on a machine whose first process is none: a manager and a journald of our own.

They live in a mount namespace with a cgroup2 hierarchy of their own, laid out as a login would have it. Needs root.
"""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.agent import wait_until
from tests.support.components import unavailable

MANAGER, JOURNALD = Path("/lib/systemd/systemd"), Path("/lib/systemd/systemd-journald")

# $1: our cgroup, $2: journald.conf. The namespace ends with its processes, and the mounts with it.
_OUTSIDE = """\
set -e
mkdir -p /run/systemd /run/log /var/log
mount -t tmpfs -o mode=755 tmpfs /run/systemd
mount -t tmpfs -o mode=755 tmpfs /run/log
mount -t tmpfs -o mode=755 tmpfs /var/log
mkdir -p /run/systemd/system /run/systemd/journal /var/log/journal
touch /run/systemd/journal/flushed
mount --bind "$2" /etc/systemd/journald.conf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$1"
echo $$ >"/sys/fs/cgroup/$1/cgroup.procs"
umount /sys/fs/cgroup
shift 2
exec unshare --cgroup sh -c "$@"
"""

# The cgroup is the root of the hierarchy now. Mounts are shared, as LoadCredential= needs them.
_INSIDE = """\
set -e
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --make-rshared /
own=/sys/fs/cgroup/user.slice/user-$(id -u).slice/user@$(id -u).service
journal=/sys/fs/cgroup/system.slice/systemd-journald.service
mkdir -p "$own" "$journal"
sh -c 'echo $$ >"$1/cgroup.procs" && exec "$2"' sh "$journal" "$1" &
echo $$ >"$own/cgroup.procs"
shift
exec "$@"
"""

_JOURNALD = """\
[Journal]
Storage=persistent
SplitMode=uid
ReadKMsg=no
Audit=no
ForwardToSyslog=no
SyncIntervalSec=1
RateLimitIntervalSec=0
"""


class SystemdUser:
    """The manager: its environment, and commands run where it lives."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.environment = {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(directory / "run"),
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={directory / 'run' / 'bus'}",
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "USER": "root",
            "LOGNAME": "root",
        }
        self._cgroup = f"fwagent-test-{uuid.uuid4().hex[:8]}"
        (directory / "run").mkdir(mode=0o700)
        (self.home / ".config" / "systemd" / "user").mkdir(parents=True)
        configuration = directory / "journald.conf"
        configuration.write_text(_JOURNALD)
        manager = ["env", "-i", *(f"{k}={v}" for k, v in self.environment.items()), str(MANAGER)]
        inside = [_INSIDE, "sh", str(JOURNALD), *manager, "--user"]
        self._log = directory / "manager.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--propagation", "slave"),
                    *("sh", "-c", _OUTSIDE, "sh", self._cgroup, str(configuration), *inside),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def up(self) -> bool:
        """Tell whether it is ready for orders."""
        assert self._process.poll() is None, self._log.read_text()
        return self.run("systemctl", "--user", "is-active", "default.target").returncode == 0

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command as a login of that user would, and return how it ended."""
        return subprocess.run(
            [
                *("nsenter", f"--mount=/proc/{self._process.pid}/ns/mnt"),
                *(f"--cgroup=/proc/{self._process.pid}/ns/cgroup", "--wd=."),
                *("env", "-i", *(f"{k}={v}" for k, v in self.environment.items())),
                *map(str, words),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def show(self, unit: str, key: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "--user", "show", unit, "-P", key).stdout.strip()

    def close(self) -> None:
        """End it with everything it has started."""
        self.run("systemctl", "--user", "--no-block", "exit")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._clear_cgroup()

    def _clear_cgroup(self) -> None:
        script = """\
mount -t cgroup2 cgroup2 /sys/fs/cgroup && cd "/sys/fs/cgroup/$1" || exit 0
echo 1 >cgroup.kill
while grep -q 'populated 1' cgroup.events; do :; done
find . -depth -type d -exec rmdir {} + 2>/dev/null
cd .. && rmdir "$1"
"""
        subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", self._cgroup], check=False, timeout=30
        )


@contextmanager
def systemd_user(directory: Path) -> Iterator[SystemdUser]:
    """Run a manager; skip loudly where that is impossible."""
    if os.geteuid() != 0:
        unavailable("a systemd --user of our own needs root")
    missing = [str(path) for path in (MANAGER, JOURNALD) if not path.exists()]
    missing += [name for name in ("dbus-daemon", "nsenter") if not shutil.which(name)]
    if missing:
        unavailable(f"there is no {', '.join(missing)}: `make test` installs them as root")
    manager = SystemdUser(directory)
    try:
        wait_until(manager.up, 20)
        yield manager
    finally:
        manager.close()
