"""Submit scripts: options through qtoolkit and beyond, overrides, names, arrays; the shell runs them as meant."""

import json
import subprocess
from pathlib import Path

import pytest

from agent.config import ConfigError, load_config
from agent.queue.script import BadOption, Scripts, options_script, plain_script, slug
from agent.queue.tags import ARRAY_PLACE
from fwcore.launchpad.records import Claim
from tests.support.agent import write_toml

RUN = {"rocket_launch": "python3 -m fwrunner"}


@pytest.fixture
def scripts(tmp_path):
    """Make the Scripts of a ``[queue]``."""

    def make(**queue):
        tree = {
            "launchpad": {"uri": "mongodb://db.example.org/"},
            "worker": {"name": "w"},
            "launch": {"root": str(tmp_path)},
            "queue": queue,
        }
        return Scripts(load_config(write_toml(tmp_path / "config.toml", tree)))

    return make


@pytest.fixture
def adapter(tmp_path):
    """Write a ``my_qadapter.yaml``."""

    def write(**keys):
        path = tmp_path / "my_qadapter.json"
        rocket = {"rocket_launch": "rlaunch singleshot --offline"}
        path.write_text(json.dumps({"_fw_name": "CommonAdapter", **rocket, **keys}))
        return str(path)

    return write


def claim_of(launch_dir="/r/x", name="relax: step 1 / a", **spec):
    return Claim(3, 7, str(launch_dir), "tok", {"fw_id": 3, "name": name, "spec": spec})


def lines(text):
    return text.split("\n")


# ------------------------------------------------------------------------------------ the options


def test_slurm(scripts):
    options = {"account": "m1234", "qos": "regular", "walltime": "02:00:00", "nodes": 1}
    assert lines(scripts(type="slurm", options=options).text(claim_of())) == [
        "#!/bin/bash",
        "#SBATCH --job-name=relax_step_1__a",
        "#SBATCH --nodes=1",
        "#SBATCH --time=02:00:00",
        "#SBATCH --account=m1234",
        "#SBATCH --output=relax_step_1__a-%j.out",
        "#SBATCH --error=relax_step_1__a-%j.error",
        "#SBATCH --qos=regular",
        "export FWAGENT_LAUNCH_ID=7",
        "cd /r/x || exit 1",
        "exec python3 -m fwrunner",
        "",
    ]


@pytest.mark.parametrize(
    ("kind", "options", "wanted"),
    [
        (
            "slurm",
            {"queue": "debug", "signal": "B:USR1@60"},
            ["--partition=debug", "--signal=B:USR1@60"],
        ),
        ("slurm", {"requeue": False, "exclusive": True}, ["--no-requeue", "--exclusive"]),
        (
            "slurm",
            {"requeue": True, "qverbatim": "#SBATCH --x=1\n#SBATCH --y"},
            ["--requeue", "--x=1", "--y"],
        ),
        ("pbs", {"queue": "q", "account": "a", "qos": "hi"}, ["-q q", "-A a", "-l qos=hi"]),
        (
            "pbs",
            {"select": "2:ncpus=4", "walltime": "1:00:00"},
            ["-l select=2:ncpus=4", "-l walltime=1:00:00"],
        ),
        (
            "sge",
            {"queue": "all.q", "account": "a", "pe": "smp 4"},
            ["-q all.q", "-A a", "-pe smp 4"],
        ),
        ("sge", {"walltime": "01:00:00"}, ["-S /bin/bash", "-l h_rt=01:00:00"]),
        (
            "lsf",
            {"queue": "q", "account": "a", "qos": "s", "walltime": "60"},
            ["-q q", "-P a", "-sla s", "-W 60"],
        ),
        ("lsf", {"resources": "rusage[mem=4GB]", "nodes": 2}, ["-R rusage[mem=4GB]", "-nnodes 2"]),
    ],
)
def test_directives(kind, options, wanted):
    found = lines(options_script(kind, {**RUN, **options}, "/x"))
    prefix = {"slurm": "#SBATCH", "pbs": "#PBS", "sge": "#$", "lsf": "#BSUB"}[kind]
    for directive in wanted:
        assert f"{prefix} {directive}" in found


@pytest.mark.parametrize("kind", ["slurm", "pbs", "sge", "lsf"])
@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ({"acount": "m"}, "'account'"),
        ({"account": "m\n#SBATCH --uid=0"}, "one line"),
        ({"account": "m$$"}, "one line"),
        ({"account": ["m"]}, "config.example.toml"),
        ({"modules": 5}, "one line each"),
        ({"rocket_launch": None}, "leave it away"),
        ({"array": "1-5"}, ""),
    ],
)
def test_a_bad_option_is_named(kind, option, hint):
    (name,) = option
    with pytest.raises(BadOption) as caught:
        options_script(kind, {**RUN, **option}, "/x")
    assert name in caught.value.title
    assert hint in caught.value.hint


def test_a_bad_option_of_the_configuration_is_told_at_once(scripts):
    with pytest.raises(ConfigError, match=r"queue.options: unknown option 'acount' for slurm"):
        scripts(type="slurm", options={"acount": "m"})


ARRAYS = [
    ("slurm", "SLURM", "#SBATCH --array=1-3"),
    ("slurm", "SLURM", "#SBATCH -n 2 -a 1-3"),
    ("pbs", "PBS", "#PBS -J 1-3"),
    ("pbs", "PBS", "#PBS -t 1-3%2"),
    ("sge", "SGE", "#$ -t 1-3"),
    ("lsf", "LoadSharingFacility", '#BSUB -J "mine[1-3]"'),
]


@pytest.mark.parametrize(("kind", "name", "directive"), ARRAYS)
def test_one_launch_makes_one_job(scripts, adapter, kind, name, directive):
    """Several would run one Firework at once in one directory."""
    made = scripts(type=kind)
    with pytest.raises(BadOption, match="several jobs of one launch"):
        made.text(claim_of(_queueadapter={"qverbatim": f"# mine\n{directive}"}))
    with pytest.raises(ConfigError, match=r"queue\.options: .*several jobs of one launch"):
        scripts(type=kind, options={"qverbatim": directive})
    with pytest.raises(ConfigError, match=r"queue\.file: .*several jobs of one launch"):
        scripts(file=adapter(_fw_q_type=name, pre_rocket=directive))


def test_what_only_looks_like_an_array(scripts):
    verbatim = "#SBATCH --account=array\n#SBATCH --time=1:00 --mail-type=ARRAY_TASKS\necho -a 1"
    assert verbatim in scripts(type="slurm", options={"qverbatim": verbatim}).text(claim_of())


def test_a_firework_overrides_options_and_its_bad_ones_are_its_own(scripts):
    made = scripts(type="slurm", options={"account": "m", "walltime": "1:00"})
    override = {"walltime": "9:00", "job_name": "mine", "rocket_launch": "rlaunch singleshot"}
    text = made.text(claim_of(_queueadapter=override))
    assert "--time=9:00" in text
    assert "--account=m" in text
    assert "--output=mine-%j.out" in text
    assert "exec rlaunch singleshot\n" in text
    for bad in ({"wall": 1}, "x"):
        with pytest.raises(BadOption):
            made.text(claim_of(_queueadapter=bad))


@pytest.mark.parametrize(
    ("kind", "name", "wanted"),
    [
        ("slurm", "é", "#SBATCH --job-name=FW_job"),
        ("slurm", "x" * 30, f"#SBATCH --job-name={'x' * 20}"),
        ("pbs", "2 (b)", "#PBS -N _2__b_"),
        ("sge", "2 b", "#$ -N _2_b"),
        ("lsf", "2 b", "#BSUB -J 2_b"),
    ],
)
def test_names(scripts, kind, name, wanted):
    assert wanted in lines(scripts(type=kind).text(claim_of(name=name)))


def test_the_slug_is_fireworks(scripts):
    assert slug("relax: step 1 / a") == "relax_step_1__a"
    assert slug("ünïcode name") == "ncode_name"
    assert slug("é") == ""


# ------------------------------------------------------------------------------------ the shell


def run(text, cwd="/"):
    return subprocess.run(
        ["bash", "-c", text], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_what_comes_before_and_after(tmp_path):
    options = {
        "modules": ["a", "b c"],
        "pre_rocket": "module() { echo module $*; }\necho pre",
        "post_rocket": ["echo post"],
        "rocket_launch": "sh -c 'exit 3'",
    }
    text = options_script("slurm", options, str(tmp_path))
    body = lines(text)[lines(text).index("module load a") :]
    assert body[:2] == ["module load a", "module load 'b c'"]
    done = run(text)
    assert done.stdout == "pre\npost\n"
    assert done.returncode == 3


def test_a_plain_script_runs_in_its_directory_or_not_at_all(tmp_path):
    place = tmp_path / "it's $HOME; here"
    place.mkdir()
    text = plain_script(str(place), "env pwd", 7)
    assert run(text).stdout == f"{place}\n"
    place.rename(tmp_path / "gone")
    assert (run(text).returncode, run(text).stdout) == (1, "")


@pytest.mark.parametrize(
    ("runner", "takes_the_place"),
    [
        ("python3 -m fwrunner", True),
        ("/opt/py/bin/python3 '/my tools/fwrunner.pyz' --ping-interval=5", True),
        ("python3 ~/fwrunner.pyz", True),
        ("rlaunch -c /scratch/cfg singleshot --offline", True),
        ("module load python && python3 -m fwrunner", False),
        ("A=1 python3 -m fwrunner", False),
        (". profile", False),
        ("python3 -m fwrunner; echo done", False),
        ("python3 -m fwrunner > log 2>&1", False),
        ('python3 "$HOME/fwrunner.pyz"', False),
        ("(ulimit -s unlimited\npython3 -m fwrunner)", False),
    ],
)
def test_signals_to_the_script_reach_the_runner(runner, takes_the_place):
    text = plain_script("/x", runner, 7)
    assert "\n".join(lines(text)[3:-1]) == (f"exec {runner}" if takes_the_place else runner)
    assert subprocess.run(["sh", "-n", "-c", text], check=False).returncode == 0


# ----------------------------------------------------------------------------------- the arrays

TELL = "echo $FWAGENT_LAUNCH_ID $PWD"


@pytest.mark.parametrize(
    ("kind", "variable"),
    [
        ("slurm", "SLURM_ARRAY_TASK_ID"),
        ("pbs", "PBS_ARRAY_INDEX"),
        ("sge", "SGE_TASK_ID"),
        ("lsf", "LSB_JOBINDEX"),
    ],
)
@pytest.mark.parametrize("runner", [f"env sh -c '{TELL}'", TELL])
def test_an_element_finds_its_directory(scripts, tmp_path, kind, variable, runner):
    places = [tmp_path / name for name in ("a", "it's b", "c")]
    for place in places:
        place.mkdir()
        (place / "FW.json").touch()
    array = tmp_path / "array"
    array.mkdir()
    manifest = "".join(f"{number}\t{place}\n" for number, place in enumerate(places, 70))
    (array / "launches").write_text(manifest)
    text = scripts(type=kind, runner=runner, array=True).array_text(claim_of())
    assert text is not None
    text = text.replace(ARRAY_PLACE, str(array))
    for index, place in enumerate(places, 1):
        assert run(f"{variable}={index}\n{text}").returncode == 0
        assert (place / "FW_job.out").read_text() == f"{69 + index} {place}\n"
    # No such element, no manifest any more: nothing is run, wherever the shell is.
    for none in ("9", "", "2x"):
        assert run(f"{variable}={none}\n{text}", cwd=tmp_path).returncode == 1
    (array / "launches").unlink()
    assert run(f"{variable}=1\n{text}", cwd=tmp_path).returncode == 1
    assert not (tmp_path / "FW_job.out").exists()


def test_what_may_share_an_array_has_one_text(scripts):
    made = scripts(type="slurm", array=True)
    one, other = claim_of("/r/x", name="a"), claim_of("/r/y", name="b")
    assert made.array_text(one) == made.array_text(other)
    assert made.array_text(claim_of(_queueadapter={"nodes": 2})) != made.array_text(one)
    assert made.array_text(claim_of("/r/x\ny")) is None
    assert scripts(type="slurm").array_text(one) is None
    assert scripts(type="local", array=True).array_text(one) is None


# ------------------------------------------------------------------------------- adapter files


def test_an_adapter_file(scripts, adapter):
    made = scripts(file=adapter(_fw_q_type="SLURM", queue="debug", account=None))
    text = made.text(claim_of())
    assert "#SBATCH --partition=debug" in text
    assert "--account" not in text
    assert "\ncd /r/x\nrlaunch singleshot --offline --fw_id 3\n" in text


@pytest.mark.parametrize(
    ("name", "kind"),
    [("SLURM", "slurm"), ("PBS", "pbs"), ("SGE", "sge"), ("LoadSharingFacility", "lsf")],
)
def test_the_file_gives_the_type(scripts, adapter, tmp_path, name, kind):
    scripts(file=adapter(_fw_q_type=name))
    assert load_config(tmp_path / "config.toml").queue.type == kind


def test_a_runner_of_ours_does_not_run_where_cd_has_failed(scripts, adapter, tmp_path):
    made = scripts(file=adapter(_fw_q_type="SLURM"), runner="pwd")
    text = made.text(claim_of(tmp_path / "none"))
    assert f"cd {tmp_path}/none || exit 1\nexport FWAGENT_LAUNCH_ID=7\npwd\n" in text
    assert run(text).returncode == 1


def test_a_template_of_the_user_beside_the_file(scripts, adapter, tmp_path):
    (tmp_path / "mine.txt").write_text("$${greeting} at $${launch_dir}\n$${nobody}\n")
    made = scripts(file=adapter(_fw_q_type="PBS", _fw_template_file="mine.txt", greeting="hi"))
    assert made.text(claim_of()) == "hi at /r/x\n"


@pytest.mark.parametrize(
    ("keys", "queue", "title"),
    [
        ({"_fw_q_type": "HTCondor"}, {"type": "none"}, "_fw_q_type is 'HTCondor'"),
        ({"_fw_q_type": "MOAB"}, {}, "cannot talk to _fw_q_type = 'MOAB'"),
        ({"_fw_q_type": ["PBS"]}, {}, "cannot talk to"),
        ({"_fw_q_type": ["PBS"]}, {"type": "none"}, "_fw_q_type is"),
        ({"_fw_q_type": "PBS"}, {"type": "slurm"}, "is for PBS"),
        ({"_fw_q_type": "PBS", "rocket_launch": "rlaunch rapidfire"}, {}, "rlaunch rapidfire"),
        ({"_fw_q_type": "PBS", "_fw_template_file": "none.txt"}, {}, "_fw_template_file"),
        ({"_fw_q_type": "PBS", "_q_commands_override": {"submit_cmd": "'"}}, {}, "submit_cmd"),
    ],
)
def test_an_adapter_file_that_cannot_be_used(scripts, adapter, keys, queue, title):
    with pytest.raises(ConfigError, match=title):
        scripts(file=adapter(**keys), **queue)


def test_scripts_for_queues_that_the_user_talks_to(scripts, adapter):
    text = scripts(type="none", file=adapter(_fw_q_type="MOAB", ppn=4, nodes=1)).text(claim_of())
    assert "#MOAB -l nodes=1:ppn=4" in text


def test_a_file_and_options_are_not_both(scripts, adapter):
    with pytest.raises(ConfigError, match="both set"):
        scripts(file=adapter(_fw_q_type="PBS"), options={"queue": "q"})


def test_no_adapter_file(scripts, tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        scripts(file=str(Path(tmp_path) / "none.yaml"))
