"""`fwagent init`: what it finds, what it writes, and what it leaves alone."""

import stat

import pytest
from typer.testing import CliRunner

from agent import first
from agent.cli import commands
from agent.config import load_config
from agent.queue.script import Scripts
from fwcore.errors import FwagentError

LAUNCHPAD = "host: db.example.org\nname: fw\nusername: me\npassword: secret\n"
WORKER = "name: perlmutter\ncategory: ''\nquery: '{}'\n"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home directory with FireWorks' files, and nothing of a scheduler on PATH."""
    folder = tmp_path / ".fireworks"
    folder.mkdir()
    (folder / "my_launchpad.yaml").write_text(LAUNCHPAD)
    (folder / "my_launchpad.yaml").chmod(0o600)
    (folder / "my_fworker.yaml").write_text(WORKER)
    (tmp_path / "here").mkdir()
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("FW_CONFIG_FILE", "FWAGENT_CONFIG", "WORK", "PSCRATCH", "FWAGENT_LAUNCHPAD_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    return tmp_path


def run(*arguments, status=0):
    done = CliRunner().invoke(commands(), ["init", *arguments])
    assert done.exit_code == status, (done.output, done.exception)
    return done.output


def config_of(home):
    return home / ".config" / "fwagent" / "config.toml"


def has(home, *programs):
    for command in programs:
        (home / "bin" / command).write_text("#!/bin/sh\n")
        (home / "bin" / command).chmod(0o755)


def test_it_points_at_fireworks_files(home):
    adapter = "_fw_q_type: SLURM\nrocket_launch: rlaunch singleshot --offline\n"
    (home / ".fireworks" / "my_qadapter.yaml").write_text(adapter)
    assert "next: fwagent doctor" in run("--yes")
    config = load_config(config_of(home))
    assert config.fworker().name == "perlmutter"
    assert config.launchpad.file == home / ".fireworks" / "my_launchpad.yaml"
    assert config.queue.type == "slurm"
    assert config.queue.file == home / ".fireworks" / "my_qadapter.yaml"
    assert config.queue.runner is None
    Scripts(config)
    assert config.launch.root == home / "scratch" / "fireworks"
    assert stat.S_IMODE(config_of(home).stat().st_mode) == 0o600
    assert "secret" not in config_of(home).read_text()


@pytest.mark.parametrize("rocket", ["rlaunch -c ~ singleshot", "rlaunch rapidfire --offline", ""])
def test_a_rocket_launch_that_is_not_offline_is_replaced(home, rocket):
    adapter = f"_fw_q_type: SLURM\nrocket_launch: {rocket}\n"
    (home / ".fireworks" / "my_qadapter.yaml").write_text(adapter)
    run("--yes")
    config = load_config(config_of(home))
    assert config.queue.runner == "python3 -m fwrunner"
    Scripts(config)
    # What comes after a key that is set must not look like another choice for it.
    assert config_of(home).read_text().rstrip().endswith('runner = "python3 -m fwrunner"')
    assert config_of(home).read_text().count("runner =") == 1


def test_nothing_is_overwritten_without_force(home):
    config_of(home).parent.mkdir(parents=True)
    config_of(home).write_text("mine")
    assert "is there already" in run("--yes", status=2)
    assert config_of(home).read_text() == "mine"
    assert 'name = "x"' in run("--dry-run", "--worker", "x")
    assert config_of(home).read_text() == "mine"
    run("--yes", "--force", "--worker", "x")
    assert load_config(config_of(home)).fworker().name == "x"


def test_a_dry_run_writes_nothing(home):
    assert run("--dry-run").startswith(f"# {config_of(home)}\n")
    assert not config_of(home).parent.exists()


def test_at_a_terminal_the_database_is_asked_for_first(home, monkeypatch):
    (home / ".fireworks" / "my_launchpad.yaml").unlink()
    secret = home / "uri"
    secret.write_text("mongodb://u:p@h/")
    secret.chmod(0o600)
    asked = []

    def answer(question, default):
        asked.append(question)
        return str(secret) if "my_launchpad.yaml" in question else default

    monkeypatch.setattr("agent.cli.init._asked", answer)
    monkeypatch.setattr("agent.cli.init._unasked", answer)
    run()
    assert asked[0] == "A my_launchpad.yaml, or a file with a MongoDB URI alone"
    assert load_config(config_of(home)).launchpad.uri_file == secret


def test_what_is_named_at_a_terminal(home):
    pad = home / ".fireworks" / "my_launchpad.yaml"
    assert first.database_in("~/.fireworks/my_launchpad.yaml") == (pad, None)


@pytest.mark.parametrize("answer", ["", "mongodb://u:s3cr3t@h/", "/none", "/"])
def test_what_is_no_file_is_refused_and_not_repeated(home, answer):
    with pytest.raises(FwagentError) as caught:
        first.database_in(answer)
    assert "s3cr3t" not in str(caught.value)


def test_what_others_can_read_and_a_dead_variable_are_told(home, monkeypatch):
    pad = home / ".fireworks" / "my_launchpad.yaml"
    pad.chmod(0o644)
    monkeypatch.setenv("FW_CONFIG_FILE", "/none/FW_config.yaml")
    told = run("--yes")
    assert f"chmod 600 {pad}" in told
    assert "$FW_CONFIG_FILE names /none/FW_config.yaml" in told


def test_without_a_database_it_says_what_to_give(home):
    (home / ".fireworks" / "my_launchpad.yaml").unlink()
    assert "--uri-file" in run("--yes", status=2)
    secret = home / "uri"
    secret.write_text("mongodb://u:p@h/")
    secret.chmod(0o600)
    run("--yes", "--uri-file", str(secret), "--database", "mine")
    config = load_config(config_of(home))
    assert (config.launchpad.uri_file, config.launchpad.name) == (secret, "mine")


@pytest.mark.parametrize(
    ("programs", "kind"),
    [((), "local"), (("qsub", "qconf"), "sge"), (("qsub", "pbsnodes"), "pbs"), (("bsub",), "lsf")],
)
def test_the_scheduler_is_detected(home, programs, kind):
    has(home, *programs)
    assert first.scheduler() == kind


def test_a_queue_type_that_there_is_not(home):
    assert "queue.type" in run("--yes", "--queue", "condor", status=2)
    assert not config_of(home).exists()


def test_a_launchpad_that_cannot_be_read(home):
    (home / ".fireworks" / "my_launchpad.yaml").write_text("host: x\npassword: [s3cr3t\n")
    told = run("--yes", status=2)
    assert "is not valid YAML, line 3" in told
    assert "s3cr3t" not in told


class TestWhereFireWorksLooks:
    def test_the_current_directory_comes_first(self, home):
        own = home / "here" / "my_launchpad.yaml"
        own.write_text(LAUNCHPAD)
        assert first.find_fireworks({}, home / "here").launchpad == own

    def test_a_config_names_them(self, home):
        named = home / "elsewhere.yaml"
        named.write_text(WORKER)
        (home / ".fireworks" / "FW_config.yaml").write_text(f"FWORKER_LOC: {named}\n")
        found = first.find_fireworks({"FW_CONFIG_FILE": "/nowhere"}, home / "here")
        assert found.worker == named
        assert found.launchpad == home / ".fireworks" / "my_launchpad.yaml"
        assert found.queue is None

    def test_a_file_that_is_named_and_not_there_is_told_of(self, home):
        (home / ".fireworks" / "FW_config.yaml").write_text("FWORKER_LOC: /nowhere/worker.yaml\n")
        assert "there is no file /nowhere/worker.yaml" in run("--yes", status=2)
        assert not config_of(home).exists()

    def test_the_current_directory_goes_before_what_a_config_names(self, home):
        """As for `lpad`, whose --config_dir is "." unless the config says otherwise."""
        config = home / ".fireworks" / "FW_config.yaml"
        named = home / ".fireworks" / "my_launchpad.yaml"
        own = home / "here" / "my_launchpad.yaml"
        own.write_text(LAUNCHPAD)
        config.write_text(f"LAUNCHPAD_LOC: {named}\n")
        assert first.find_fireworks({}, home / "here").launchpad == own
        config.write_text(f"LAUNCHPAD_LOC: {named}\nCONFIG_FILE_DIR: {home}\n")
        assert first.find_fireworks({}, home / "here").launchpad == named

    def test_the_variable_comes_last(self, home):
        folder = home / "project"
        folder.mkdir()
        (folder / "my_fworker.yaml").write_text(WORKER)
        config = folder / "FW_config.yaml"
        config.write_text(f"CONFIG_FILE_DIR: {folder}\n")
        environ = {"FW_CONFIG_FILE": str(config)}
        assert first.find_fireworks(environ, home / "here").worker == folder / "my_fworker.yaml"
        (home / ".fireworks" / "FW_config.yaml").write_text("PRINT_FW_JSON: true\n")
        found = first.find_fireworks(environ, home / "here")
        assert found.worker == home / ".fireworks" / "my_fworker.yaml"

    def test_a_config_that_is_none(self, home):
        (home / ".fireworks" / "FW_config.yaml").write_text("[1]")
        with pytest.raises(FwagentError):
            first.find_fireworks({}, home / "here")
