"""Submit scripts from a user's ``my_qadapter.yaml`` are those that FireWorks writes, for every queue type it has."""

import json
import string
from pathlib import Path
from typing import Any

from agent.config import load_config
from agent.queue.script import Scripts, adapter_script, slug
from agent.queue.templates import TEMPLATES
from fwcore.launchpad.records import Claim
from tests.support.agent import write_toml

# What qlaunch -r makes of an adapter file and a Firework (queue_launcher.py).
QLAUNCH = """\
import os, warnings
warnings.simplefilter("ignore")
from fireworks.fw_config import QUEUE_JOBNAME_MAXLEN
from fireworks.utilities.fw_serializers import load_object, load_object_from_file
from fireworks.utilities.fw_utilities import get_slug
from fireworks.user_objects.queue_adapters.common_adapter import CommonAdapter
result = []
for file, name, override, launch_dir in cases:
    adapter = load_object(load_object_from_file(file).to_dict())
    adapter.update(job_name=get_slug(name)[0:QUEUE_JOBNAME_MAXLEN])
    adapter.update(override)
    adapter["rocket_launch"] += " --fw_id 3"
    result.append(adapter.get_script_str(launch_dir))
types = list(CommonAdapter.default_q_commands)
"""

OFFLINE = {"rocket_launch": "rlaunch -c /scratch/cfg singleshot --offline"}
VALUES = {
    "queue": "debug",
    "account": "m1234",
    "walltime": "02:00:00",
    "nodes": 2,
    "nnodes": 2,
    "ppnode": 4,
    "ppn": 4,
    "ntasks": 8,
    "pre_rocket": "module load python\nexport A=$HOME ${B}",
    "post_rocket": "echo $$ is lost\necho kept",
    "mem": 1.5,
    "gres": None,
    "gpu-bind": "x",
    "exclude_nodes": True,
    "unknown": "ignored",
    "logdir": "/tmp",
    "notification_options": "abe",
    "email": "me@example.org",
    "job_type": "parallel",
}
CASES = [
    ("relax: step 1 / a", {}),
    ("é", {}),
    ("a" * 40, {"walltime": "9:00", "job_name": "mine", "pre_rocket": None}),
    ("b", {"rocket_launch": "rlaunch singleshot --offline -x", "queue": 7}),
]
MINE = "#!/bin/zsh\n$${greeting}\n$$$${twice} $$not a name $$ \n$${job_name}\ncd $${launch_dir}\n$$rocket_launch"


def ours(tmp_path: Path, file: Path, name: str, override: object, launch_dir: str) -> str:
    kind = "none"
    tree = {
        "launchpad": {"uri": "mongodb://db.example.org/"},
        "worker": {"name": "w"},
        "launch": {"root": str(tmp_path)},
        "queue": {"type": kind, "file": str(file)},
    }
    scripts = Scripts(load_config(write_toml(tmp_path / "config.toml", tree)))
    firework = {"fw_id": 3, "name": name, "spec": {"_queueadapter": override}}
    return scripts.text(Claim(3, 7, launch_dir, "t", firework))


def yaml_file(tmp_path):
    """Values that YAML does not take for texts: a walltime without quotes, a number, a yes."""
    file = tmp_path / "my_qadapter.yaml"
    file.write_text(
        "_fw_name: CommonAdapter\n_fw_q_type: SLURM\nrocket_launch: rlaunch singleshot --offline\n"
        "walltime: 02:00:00\nnodes: 0o10\nqos: yes\nqueue: null\nmem: 1e3\naccount: 2026-01-02\n"
    )
    return file


def test_the_same_text(fireworks, tmp_path):
    template = tmp_path / "mine.txt"
    template.write_text(MINE)
    contents = [{"_fw_q_type": name, **OFFLINE, **VALUES} for name in TEMPLATES]
    contents += [{"_fw_q_type": name, **OFFLINE} for name in TEMPLATES]
    contents.append(
        {"_fw_q_type": "PBS", "_fw_template_file": str(template), **OFFLINE, "greeting": "hi"}
    )
    cases: list[Any] = []
    for number, content in enumerate(contents):
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps({"_fw_name": "CommonAdapter", **content}))
        cases += [[str(file), name, override, "/scratch/a/b"] for name, override in CASES]
    cases.append([str(yaml_file(tmp_path)), "n", {}, "/x"])
    theirs = fireworks.python(QLAUNCH, cases=cases)
    for case, text in zip(cases, theirs, strict=True):
        file, name, override, launch_dir = case
        assert ours(tmp_path, Path(file), name, override, launch_dir) == text, case
    assert len({*theirs}) > len(TEMPLATES) * 3


def test_every_type_and_every_name(fireworks):
    names = [string.printable, "ünïcode name", "", " a  b ", "x/y"]
    code = """
scripts = [CommonAdapter("SGE", job_name=name).get_script_str("/x") for name in (None, "x")]
result = [types, [get_slug(name) for name in names], scripts]
"""
    types, slugs, scripts = fireworks.python(QLAUNCH + code, cases=[], names=names)
    assert set(types) == set(TEMPLATES)
    assert [slug(name) for name in names] == slugs
    template = TEMPLATES["SGE"]
    assert [adapter_script(template, {"job_name": n}, "/x") for n in (None, "x")] == scripts
