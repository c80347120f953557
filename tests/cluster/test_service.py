"""`fwagent service` under a real systemd --user: started, killed, hung, misconfigured, stopped."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.agent import FWAGENT, Site, Store, wait_until
from tests.support.components import unavailable
from tests.support.systemd_user import SystemdUser, systemd_user

UNIT = "fwagent.service"
REPOSITORY = Path(__file__).parents[2]

# What takes half a minute to ten in life.
_IMPATIENT = """\
[Service]
RestartSec=100ms
WatchdogSec=2s
TimeoutAbortSec=1s
Environment=FWAGENT_LOG=json
"""


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    with systemd_user(tmp_path_factory.mktemp("systemd")) as manager:
        yield manager


@pytest.fixture
def site(mongod, lp_name, tmp_path):
    return Site(tmp_path / "site", mongod, lp_name)


class Service:
    """The service of one site, as its user sees it."""

    def __init__(self, manager: SystemdUser, site: Site) -> None:
        self.manager = manager
        self.site = site
        self.units = manager.home / ".config" / "systemd" / "user"

    def fwagent(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.manager.run(*FWAGENT, "--config", self.site.config, *words)

    def install(self, *options: str) -> str:
        folder = self.units / f"{UNIT}.d"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "zz-test.conf").write_text(_IMPATIENT)
        done = self.fwagent("service", "install", *options)
        assert done.returncode == 0, done
        return done.stdout

    def state(self, status: int | None = 0) -> dict[str, object]:
        done = self.fwagent("service", "status", "--json")
        assert status in (None, done.returncode), done
        return dict(json.loads(done.stdout))

    def is_ready(self) -> bool:
        return self.manager.show(UNIT, "ActiveState") == "active"

    def pid(self) -> int:
        return int(self.manager.show(UNIT, "MainPID"))

    def log(self) -> str:
        return self.manager.run("journalctl", f"--user-unit={UNIT}", "-o", "cat").stdout


@pytest.fixture
def service(manager, site):
    service = Service(manager, site)
    yield service
    manager.run("systemctl", "--user", "stop", UNIT)
    manager.run("systemctl", "--user", "reset-failed", UNIT)
    shutil.rmtree(service.units)
    service.units.mkdir()
    manager.run("systemctl", "--user", "daemon-reload")


def test_its_life(service, manager, site, lp, db):
    """Installed, it works; killed and hung, it is restarted; stopped and uninstalled, it is gone."""
    store = Store(lp, db)
    (first,) = store.add({})
    site.configure(queue={"type": "local"}, sync={"outbox_interval": 0.2, "reserve_interval": 0.5})
    assert f"{UNIT} is starting" in service.install()
    wait_until(service.is_ready)
    wait_until(lambda: store.state(first) == "COMPLETED")
    wait_until(lambda: "1 jobs submitted" in manager.show(UNIT, "StatusText"))
    state = service.state()
    assert (state["installed"], state["enabled"], state["active"]) == (True, True, "active")
    assert state["pid"] == service.pid()
    assert "serving" in service.fwagent("service", "logs").stdout

    before = service.pid()
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: service.pid() not in (0, before) and service.is_ready())
    hung = service.pid()
    os.kill(hung, signal.SIGSTOP)
    wait_until(lambda: service.pid() not in (0, hung) and service.is_ready())
    assert int(manager.show(UNIT, "NRestarts")) == 2

    (second,) = store.add({})
    wait_until(lambda: store.state(second) == "COMPLETED")
    manager.run("systemctl", "--user", "stop", UNIT)
    assert service.state(status=1)["result"] == "success"
    assert '"event": "stopped"' in service.log()
    removed = service.fwagent("service", "uninstall")
    assert removed.returncode == 0, removed
    assert [path.name for path in service.units.rglob("*") if path.is_file()] == ["zz-test.conf"]
    assert not service.state(status=1)["installed"]


def test_a_bad_configuration_does_not_restart_it(service, site):
    service.install("--no-start")
    site.config.write_text(site.config.read_text() + "\n[sink]\n")
    service.manager.run("systemctl", "--user", "start", UNIT)
    state = service.state(status=1)
    assert (state["active"], state["result"], state["restarts"]) == ("failed", "exit-code", 0)
    assert "unknown key 'sink'" in service.log()


def test_a_new_configuration_is_taken_over_by_a_reload(service, site):
    service.install()
    wait_until(service.is_ready)
    pid = service.pid()
    site.config.write_text(site.config.read_text() + "\n[sink]\n")
    service.manager.run("systemctl", "--user", "reload", UNIT)
    wait_until(lambda: "the old configuration stays in force" in service.log())
    assert service.is_ready()
    site.configure()
    service.manager.run("systemctl", "--user", "reload", UNIT)
    wait_until(lambda: "the new configuration is in force" in service.log())
    assert service.is_ready()
    assert service.pid() == pid


def test_it_waits_for_a_database_that_is_away(service, manager, site, private_mongod):
    site.server = private_mongod
    site.configure(launchpad=site.impatient_launchpad())
    private_mongod.stop()
    service.install()
    wait_until(lambda: "waits for the database" in manager.show(UNIT, "StatusText"))
    assert service.state(status=1)["active"] == "activating"


def test_the_password_stays_in_its_file(service, site, tmp_path, lp):
    secret = tmp_path / "uri"
    secret.write_text(site.server.uri)
    secret.chmod(0o600)
    site.configure(launchpad={"uri": None})
    service.install("--credential", str(secret))
    wait_until(service.is_ready)
    shown = service.manager.run("systemctl", "--user", "cat", UNIT).stdout
    assert f"LoadCredential=launchpad_uri:{secret}" in shown
    assert site.server.uri not in shown


def test_one_login_node_of_several(service, site):
    service.install("--here-only")
    wait_until(service.is_ready)
    drop_in = service.units / f"{UNIT}.d" / "here.conf"
    drop_in.write_text(drop_in.read_text().replace("ConditionHost=", "ConditionHost=not-"))
    service.manager.run("systemctl", "--user", "daemon-reload")
    service.manager.run("systemctl", "--user", "restart", UNIT)
    assert service.manager.show(UNIT, "ConditionResult") == "no"
    assert service.state(status=1)["active"] == "inactive"


def test_instances_have_configurations_of_their_own(service, site):
    folder = service.manager.home / ".config" / "fwagent"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "other.toml").write_text(site.config.read_text())
    install = ("service", "install", "--instance", "other")
    done = service.manager.run(*FWAGENT, *install)
    assert done.returncode == 0, done
    wait_until(lambda: service.manager.show("fwagent@other.service", "ActiveState") == "active")
    done = service.manager.run(*FWAGENT, "service", "uninstall", "--instance", "other")
    assert done.returncode == 0, done
    assert not list(service.units.rglob("*.*"))


@pytest.mark.parametrize("name", ["fwagent.service", "fwagent@.service", "fwagent-tunnel@.service"])
def test_systemd_finds_no_fault_with_the_units(name, tmp_path):
    if not shutil.which("systemd-analyze"):
        unavailable("there is no systemd-analyze")
    unit = tmp_path / name
    text = (REPOSITORY / "deploy" / "systemd" / name).read_text()
    unit.write_text(text.replace("%h/.local/bin/fwagent", FWAGENT[0]))
    with_drop_in = tmp_path / f"{name}.d"
    with_drop_in.mkdir()
    shutil.copy(REPOSITORY / "deploy" / "systemd" / "batch-queue.conf", with_drop_in)
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", unit],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
