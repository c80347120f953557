"""Which mount a directory is on, and what is tried there."""

from pathlib import Path

import pytest

from agent.filesystem import Mount, mount_of, tried

TABLE = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /scratch rw,noatime shared:7 - lustre 10.0.0.1@o2ib:/scratch rw,flock
31 22 0:41 / /home rw,relatime shared:8 master:2 - nfs4 filer:/vol/home rw,vers=4.2
32 31 0:42 / /home/my\\040disk rw - fuse.sshfs me@host:/x rw
33 22 0:43 / /scratch rw - tmpfs hidden-by-nothing rw
a line that says nothing
"""


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/usr/lib", Mount("/", "ext4", "/dev/vda")),
        ("/home/me/fw", Mount("/home", "nfs4", "filer:/vol/home")),
        ("/homes", Mount("/", "ext4", "/dev/vda")),
        ("/home/my disk/a", Mount("/home/my disk", "fuse.sshfs", "me@host:/x")),
        ("/scratch", Mount("/scratch", "tmpfs", "hidden-by-nothing")),
    ],
)
def test_mounts(path, mount):
    assert mount_of(Path(path), TABLE) == mount


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "gpfs", "beegfs", "fuse.bindfs", "fuseblk"])
def test_others_may_write_there(kind):
    assert Mount("/", kind, "").remote


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs", "overlay", "btrfs", "fusectl"])
def test_it_is_our_own(kind):
    assert not Mount("/", kind, "").remote


def test_this_machine(tmp_path):
    assert mount_of(tmp_path).kind != "unknown"
    trial = tried(tmp_path)
    assert trial.replaces
    assert abs(trial.clock_ahead) < 1
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        tried(tmp_path / "none")
