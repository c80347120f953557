"""The workflow of the demo, and what the database must say at its end: all of it data, and one check.

The equation of state of solid argon: relax the cell, compute eight volumes side by side, fit a curve, write
a summary. A phonon calculation next to it fails on purpose, and what depends on it waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.demo import argon

Document = dict[str, Any]

STRAINS = (-0.035, -0.025, -0.015, -0.005, 0.005, 0.015, 0.025, 0.035)
RELAX, TIGHTEN, FIT, SUMMARY, PHONONS, BANDS, HEAT = 1, 2, 11, 12, 13, 14, 15
STATIC = tuple(range(3, 3 + len(STRAINS)))
NAMES = {
    RELAX: "relax the cell",
    TIGHTEN: "relax it tighter",
    **{key: f"static {100 * strain:+.1f} %" for key, strain in zip(STATIC, STRAINS, strict=True)},
    FIT: "fit the equation of state",
    SUMMARY: "write a summary",
    PHONONS: "phonons (fails on purpose)",
    BANDS: "phonon bands",
    HEAT: "heat capacity",
}
LINKS = {
    RELAX: [TIGHTEN],
    TIGHTEN: [*STATIC, PHONONS],
    **{point: [FIT] for point in STATIC},
    FIT: [SUMMARY, HEAT],
    PHONONS: [BANDS],
    BANDS: [HEAT],
}
#: The state of every Firework at the end.
EXPECTED = {
    **dict.fromkeys(NAMES, "COMPLETED"),
    PHONONS: "FIZZLED",
    BANDS: "WAITING",
    HEAT: "WAITING",
}
#: What the fit sends on.
FITTED = ("volume", "bulk_modulus", "energy_sum")

_GUESS, _LOOSE, _TIGHT = 5.0, 0.1, 1e-9
_WRONG = "the forces do not converge"
_POINTS = [f"point_{number}" for number, _ in enumerate(STRAINS, 1)]


def document(server: tuple[str, int]) -> Document:
    """Return the workflow; one of its jobs tries to reach ``server``, the database."""
    tasks = {
        RELAX: [
            _python("reach", list(server), stored_data_varname="database"),
            _python("relax", [_GUESS, _LOOSE], outputs=["guess"]),
        ],
        TIGHTEN: [_python("relax", inputs=["guess", "tolerance"], outputs=["lattice"])],
        **{
            key: [
                _shell(f"echo 'volume {strain:+.3f}' >static.log; sleep 0.4"),
                _python("point", [strain], inputs=["lattice"], outputs=[point]),
            ]
            for key, strain, point in zip(STATIC, STRAINS, _POINTS, strict=True)
        },
        FIT: [_python("fit", inputs=_POINTS, outputs=list(FITTED))],
        SUMMARY: [
            _shell("cat >summary.txt && wc -c <summary.txt", stdin_key="title", store_stdout=True)
        ],
        PHONONS: [_shell(f"sleep 0.4; echo '{_WRONG}' >&2; exit 1", store_stderr=True)],
        BANDS: [_shell("echo bands")],
        HEAT: [_shell("echo heat")],
    }
    given: dict[int, Document] = {
        TIGHTEN: {"tolerance": _TIGHT},
        SUMMARY: {"title": "Argon, fcc, Lennard-Jones\n"},
    }
    return {
        "name": "argon",
        "fws": [
            {"fw_id": key, "name": name, "spec": {**given.get(key, {}), "_tasks": tasks[key]}}
            for key, name in NAMES.items()
        ],
        "links": {str(parent): children for parent, children in LINKS.items()},
        "metadata": {"made_by": "fwagent demo"},
    }


def _python(function: str, args: list[Any] | None = None, **options: Any) -> Document:
    return {"_fw_name": "PyTask", "func": f"argon.{function}", "args": args or [], **options}


def _shell(script: str, **options: Any) -> Document:
    return {"_fw_name": "ScriptTask", "script": script, **options}


Stored = Mapping[str, list[Document]]

#: The collections that `differences` looks at.
COLLECTIONS = ("fireworks", "workflows", "launches", "offline_runs")


def differences(stored: Stored, *, cut_off: bool) -> list[str]:
    """Return where the database, in which there was nothing before, does not say what it should."""
    found = [*_states(stored), *_launches(stored), *_runs(stored), *_specs(stored)]
    if "_exception" not in result(stored, PHONONS):
        found.append(f"{NAMES[PHONONS]!r} does not tell why it failed")
    seen = result(stored, RELAX).get("database")
    if cut_off and seen in (None, "reached"):
        found.append(f"a job cut off from the network says of the database: {seen!r}")
    return found


def result(stored: Stored, fw_id: int) -> Document:
    """Return the stored data of a Firework that has been launched once."""
    for launch in stored["launches"]:
        if launch["fw_id"] == fw_id and launch["action"]:
            return dict(launch["action"]["stored_data"])
    return {}


def _states(stored: Stored) -> Iterator[str]:
    """States are stored twice, in the Fireworks and in the workflow; both must be right."""
    states = {firework["fw_id"]: firework["state"] for firework in stored["fireworks"]}
    for fw_id, state in EXPECTED.items():
        if states.get(fw_id) != state:
            yield f"{NAMES[fw_id]!r} is {states.get(fw_id)}, not {state}"
    if len(stored["workflows"]) != 1:
        yield f"there are {len(stored['workflows'])} workflows, not 1"
    for workflow in stored["workflows"]:
        if workflow["state"] != "FIZZLED":
            yield f"the workflow is {workflow['state']}, not FIZZLED"
        if workflow["fw_states"] != {str(fw_id): state for fw_id, state in states.items()}:
            yield "the states in the workflow are not those of its Fireworks"
        if "locked" in workflow:
            yield f"the workflow is still locked by {workflow['locked']}"


def _launches(stored: Stored) -> Iterator[str]:
    """Every Firework but the waiting ones has run once, and has told how it ended."""
    for fw_id, state in EXPECTED.items():
        launches = [launch for launch in stored["launches"] if launch["fw_id"] == fw_id]
        wanted = 0 if state == "WAITING" else 1
        if len(launches) != wanted:
            yield f"{NAMES[fw_id]!r} has {len(launches)} launches, not {wanted}"
        for launch in launches:
            if launch["state"] != state or launch["action"] is None:
                told = "with" if launch["action"] else "without"
                yield f"the launch of {NAMES[fw_id]!r} is {launch['state']} {told} a result"


def _runs(stored: Stored) -> Iterator[str]:
    runs = stored["offline_runs"]
    if still := [run["launch_id"] for run in runs if not run["completed"]]:
        yield f"the offline runs of the launches {still} are still open"
    if len(runs) != len(stored["launches"]):
        yield f"there are {len(runs)} offline runs of {len(stored['launches'])} launches"


def _specs(stored: Stored) -> Iterator[str]:
    """What jobs sent on must have arrived, at the fan-out and the fan-in: it is computed here once more."""
    guess = argon.relax(_GUESS, _LOOSE)
    lattice = argon.relax(guess, _TIGHT)
    points = [argon.point(strain, lattice) for strain in STRAINS]
    wanted: dict[int, Document] = {
        TIGHTEN: {"guess": guess},
        **{fw_id: {"lattice": lattice} for fw_id in (*STATIC, PHONONS)},
        FIT: dict(zip(_POINTS, points, strict=True)),
        SUMMARY: dict(zip(FITTED, argon.fit(*points), strict=True)),
    }
    specs = {firework["fw_id"]: firework["spec"] for firework in stored["fireworks"]}
    for fw_id, values in wanted.items():
        for name, value in values.items():
            arrived = specs.get(fw_id, {}).get(name)
            if arrived != value:
                yield f"in the spec of {NAMES[fw_id]!r}, {name} is {arrived!r}, not {value!r}"
