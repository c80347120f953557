"""docs/file-formats.md against what the code writes."""

import json
import re
from pathlib import Path

from agent.localspool import Spool
from agent.notes import MEMORY_FILE, Notes
from agent.reconcile import Absence, Memory
from agent.stage import stage
from fwcore.launchpad.records import Claim
from fwrunner.protocol import PROTOCOL, Report, document_of

PAGE = (Path(__file__).parents[2] / "docs" / "file-formats.md").read_text(encoding="utf-8")


def row(name):
    return next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))


def test_the_keys_of_a_report():
    section = PAGE.split("## A report")[1].split("##")[0]
    first = (line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    told = {name for cell in first for name in re.findall(r"`(\w+)`", cell)}
    full = Report(*range(len(Report._fields)))
    assert told == set(document_of(full))
    assert f"`protocol` is {PROTOCOL};" in PAGE


def test_what_is_remembered_of_the_queue(tmp_path):
    notes = Notes(tmp_path)
    notes.keep(Memory(absent={1: Absence(1.0, "x", "")}), [])
    document = json.loads((tmp_path / MEMORY_FILE).read_text())
    words = re.findall(r"`(\w+)`", row(".fwagent/WORKER-XXXXXXXX/reconcile.json"))
    assert {*document, *document["absent"]["1"]} <= set(words)


def test_the_folders_of_the_local_queue(tmp_path):
    Spool(tmp_path / "spool").prepare()
    told = re.findall(r"`(\w+)/`", row(".fwagent/local/HOST/"))
    assert {each.name for each in (tmp_path / "spool").iterdir()} == set(told)


def test_what_a_launch_directory_is_given(tmp_path):
    firework = {"fw_id": 3, "name": "a", "spec": {"_tasks": []}}
    place = tmp_path / "launcher"
    stage(Claim(3, 7, str(place), "tok", firework), tmp_path, "#!/bin/sh\n", 60.0)
    offline = json.loads((place / "FW_offline.json").read_text())
    words = re.findall(r"`(\w+)`", row("FW_offline.json"))
    assert {*offline, *offline["fwagent"]} <= set(words)
    told = PAGE.split("## In a launch directory")[1].split("##")[0]
    assert all(f"`{each.name}`" in told for each in place.iterdir())
