"""A directory as a file server's clients have it: through mounts that keep what they know for a while.

What is changed through one mount raises no event at another, and is seen there when the attribute cache has expired,
as on NFS; the mounts are bindfs's, by FUSE.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.filesystem import mount_of
from tests.support.agent import wait_until
from tests.support.components import unavailable


@contextmanager
def mounts(home: Path, cache: float) -> Iterator[tuple[Path, Path]]:
    """Yield two places where the same directory is mounted; attributes, and what is not there, are kept ``cache`` s."""
    if missing := [name for name in ("bindfs", "fusermount3") if not shutil.which(name)]:
        unavailable(f"no {' and no '.join(missing)}: tests/install-system-packages installs them")
    if not Path("/dev/fuse").exists():
        unavailable("no /dev/fuse: the kernel has no FUSE, or a container hides it")
    server = home / "server"
    server.mkdir(parents=True)
    near, far = home / "login", home / "compute"
    running = []
    try:
        for place in (near, far):
            place.mkdir()
            running.append(_mount(server, place, cache))
        for place in (near, far):
            wait_until(lambda place=place: mount_of(place).kind == "fuse.bindfs")  # type: ignore[misc]
        yield near, far
    finally:
        for place in (near, far):
            subprocess.run(["fusermount3", "-uz", str(place)], check=False, capture_output=True)
        for process in running:
            process.wait(10)


def _mount(server: Path, place: Path, cache: float) -> subprocess.Popen[bytes]:
    kept = ",".join(
        f"{what}_timeout={cache:g}" for what in ("attr", "entry", "negative", "ac_attr")
    )
    options = ["-o", f"{kept},subtype=bindfs"]
    return subprocess.Popen(["bindfs", "-f", "--no-allow-other", *options, str(server), str(place)])
