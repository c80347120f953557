"""Tracked files of an offline run, as FireWorks stores those of an online one."""

import json
import sys
from pathlib import Path
from typing import Any

from tests.interop.test_main_job import Fwagent, run_fwrunner
from tests.support.fireworks import FireWorks
from tests.support.mongod import Client

WRITE = """
import gzip, os
os.mkdir("sub")
texts = {
    "lines": "".join(f"line {n}\\n" for n in range(40)),
    "unfinished": "one\\ntwo\\nthr",
    "windows": "one\\r\\ntwo\\r\\n\\r\\n",
    "progress": "10%\\r20%\\r30%\\n",
    "spaces": "  one  \\n\\ttwo\\t\\n\\n",
    "umlauts": "gr\\u00f6\\u00dfe\\nüber\\u2028all\\x0b\\n",
    "empty": "",
    "newline": "\\n",
    "sub/log": "below\\n",
}
for name, text in texts.items():
    open(name, "w", encoding="utf-8", newline="").write(text)
for name in ("packed.gz", "hidden.gz"):
    gzip.open(name, "wt").write("first\\nsecond\\nthird\\n")
"""
NAMES = ("unfinished", "windows", "progress", "spaces", "umlauts", "empty", "newline", "sub/log")
TRACKERS: list[dict[str, Any]] = [
    {"filename": "lines", "nlines": 3},
    *({"filename": name, "nlines": 25} for name in NAMES),
    {"filename": "packed", "nlines": 2, "allow_zipped": True},
    {"filename": "packed.gz", "nlines": 1, "allow_zipped": True},
    {"filename": "hidden", "nlines": 2},
    {"filename": "hidden.gz", "nlines": 2},
    {"filename": "missing", "nlines": 25},
]


def test_tracked_files(
    fireworks: FireWorks, mongo_client: Client, db_name: str, tmp_path: Path
) -> None:
    """Online, offline by fwrunner, offline by rlaunch: the same contents, and `lpad track_fws` shows them."""
    task = tmp_path / "write.py"
    task.write_text(WRITE, encoding="utf-8")
    script = {"_fw_name": "ScriptTask", "script": f"{sys.executable} {task}"}
    workflow = tmp_path / "workflow.json"
    fw = {"name": "tracked", "spec": {"_tasks": [script], "_trackers": TRACKERS}}
    fws = [{**fw, "fw_id": number} for number in (-1, -2, -3)]
    workflow.write_text(json.dumps({"fws": fws, "links": {}, "metadata": {}}), encoding="utf-8")
    fireworks.lpad("add", workflow)
    online = tmp_path / "online"
    online.mkdir()
    fireworks.rlaunch("singleshot", cwd=online)

    fwagent = Fwagent(fireworks, tmp_path / "launches", "none")
    ours, stock = fwagent("launch", "--stage-only")["claimed"]
    run_fwrunner(ours["launch_dir"])
    fireworks.rlaunch("singleshot", "--offline", cwd=Path(stock["launch_dir"]))
    applied = fwagent("recover")["applied"]
    assert [entry["state"] for entry in applied] == ["COMPLETED"] * 2

    expected, *found = (
        launch["trackers"] for launch in mongo_client[db_name].launches.find().sort("launch_id")
    )
    with_content = {tracker["filename"] for tracker in expected if "content" in tracker}
    assert {"lines", "packed", "sub/log"} <= with_content < {t["filename"] for t in TRACKERS}
    assert found == [expected, expected]
    shown = fireworks.lpad("track_fws", "-i", "1,2,3").stdout
    assert shown.count("line 37\nline 38\nline 39\n") == 3
