"""What systemd is told, and what the unit files of `fwagent service install` hold."""

import shlex
import socket
from pathlib import Path

import pytest

from agent import service as services
from agent.config import load_config
from agent.notify import Notifier
from agent.service import Service, ServiceError, files

UNIT = Service()
DEPLOY = Path(__file__).parents[2] / "deploy" / "systemd"


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """What systemd would hear."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.setblocking(False)
        yield channel


def heard(channel):
    found = []
    while True:
        try:
            found.append(channel.recv(4096).decode())
        except BlockingIOError:
            return found


class TestNotifier:
    def test_what_is_told(self, manager):
        notifier = Notifier(manager.getsockname())
        with notifier.reloading():
            pass
        notifier.alive("starting")
        notifier.ready()
        notifier.ready()
        notifier.alive("serves\n one")
        notifier.alive("serves\n one")
        notifier.stopping()
        assert heard(manager) == [
            "WATCHDOG=1\nSTATUS=starting",
            "READY=1",
            "WATCHDOG=1\nSTATUS=serves one",
            "WATCHDOG=1",
            "STOPPING=1\nSTATUS=stopping",
        ]

    def test_reading_the_configuration_anew(self, manager):
        notifier = Notifier(manager.getsockname())
        notifier.ready()
        with pytest.raises(KeyError), notifier.reloading():
            raise KeyError
        _, begun, over = heard(manager)
        assert begun.startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert over == "READY=1"

    def test_the_environment_names_the_manager(self, manager, monkeypatch):
        monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
        Notifier().ready()
        assert heard(manager) == ["READY=1"]

    def test_an_abstract_address(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.bind("")  # Linux gives it an abstract name
            channel.setblocking(False)
            Notifier("@" + channel.getsockname()[1:].decode()).ready()
            assert heard(channel) == ["READY=1"]

    @pytest.mark.parametrize("address", ["", "/nowhere/at/all"])
    def test_nobody_listens(self, address):
        Notifier(address).ready()


class TestFiles:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "config.toml"
        path.write_text(
            '[worker]\nname = "w"\n[launch]\nroot = "${DEEP}/fw"\n[queue]\ntype = "none"\n'
        )
        return path

    def made(self, path, environ, service=UNIT, **options):
        return files(service, load_config(path), path, environ, **options)

    @pytest.fixture
    def environ(self, monkeypatch, tmp_path):
        environ = {"DEEP": str(tmp_path), "PATH": "/opt/slurm/bin:/usr/bin", "EDITOR": "vi"}
        monkeypatch.setenv("DEEP", environ["DEEP"])
        return environ

    def test_what_the_shell_knows_goes_along(self, path, environ):
        here = self.made(path, environ)["fwagent.service.d/here.conf"]
        assert f'Environment="DEEP={environ["DEEP"]}"' in here
        assert 'Environment="PATH=/opt/slurm/bin:/usr/bin"' in here
        assert "EDITOR" not in here

    def test_signs_that_mean_something_to_systemd(self, path, environ):
        odd = path.parent / 'a "b" 100% $c \\.toml'
        path.rename(odd)
        here = self.made(odd, {**environ, "PATH": "/50%/$x"})["fwagent.service.d/here.conf"]
        (start,) = [line for line in here.splitlines() if line.startswith('ExecStart="')]
        words = shlex.split(start.removeprefix("ExecStart=").replace("$$", "$"))
        assert words[1:] == ["--config", str(odd).replace("%", "%%"), "run"]
        assert 'Environment="PATH=/50%%/$x"' in here

    def test_a_line_break_is_refused(self, path, environ):
        with pytest.raises(ServiceError, match="cannot stand in a unit file"):
            self.made(path, {**environ, "PATH": "/bin\nExecStart=/bin/evil"})

    def test_a_password_in_the_environment_is_refused(self, path, environ):
        secret = {**environ, "FWAGENT_LAUNCHPAD_URI": "mongodb://u:secret@h"}
        with pytest.raises(ServiceError) as refused:
            self.made(path, secret)
        assert "--credential" in refused.value.hint
        made = self.made(path, secret, credential=Path("/home/me/uri"))
        assert "LoadCredential=launchpad_uri:/home/me/uri" in "".join(made.values())
        assert "secret" not in "".join(made.values())

    @pytest.mark.parametrize(("queue", "bound"), [("none", True), ("local", False), ("pbs", False)])
    def test_jobs_and_set_user_id_commands_are_not_bound(self, path, environ, queue, bound):
        path.write_text(path.read_text().replace('"none"', f'"{queue}"'))
        assert ("fwagent.service.d/batch-queue.conf" in self.made(path, environ)) is bound

    def test_instances(self, path, environ):
        made = self.made(path, environ, Service("two"))
        assert list(made)[:2] == ["fwagent@.service", "fwagent@two.service.d/here.conf"]

    def test_the_two_units_are_alike(self):
        one, many = (
            (DEPLOY / name).read_text().splitlines()
            for name in ("fwagent.service", "fwagent@.service")
        )
        differing = [line.partition("=")[0] for line in one[3:] if line not in many]
        assert differing == ["Description", "ExecStart"]

    def test_removing_leaves_what_others_use(self, path, environ, tmp_path):
        environ["XDG_CONFIG_HOME"] = str(tmp_path / "config")
        for name in ("one", "two"):
            services.write(self.made(path, environ, Service(name)), environ)
        units = services.unit_directory(environ)
        (units / "fwagent@two.service.d" / "mine.conf").touch()
        services.remove(Service("two"), environ)
        assert sorted(path.name for path in units.rglob("*.*") if path.is_file()) == [
            "batch-queue.conf",
            "fwagent@.service",
            "here.conf",
            "mine.conf",
        ]
