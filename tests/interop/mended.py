"""The judge with single mistakes mended: pieces of FireWorks' own source, replaced while it runs.

Where FireWorks 2.1.4 is wrong in a way that spreads over a whole workflow, a table of places would excuse too much.
Its code with nothing but that mistake put right tells exactly what should have come out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mend:
    """One mistake: in `function` (``module:Class.method``), `old` becomes `new`.

    Both are lines of the function as it would stand at the left margin.
    """

    name: str
    function: str
    old: str
    new: str
    why: str


#: Feeds docs/compatibility.md.
MENDS = (
    Mend(
        "recovery leaves a held Firework alone",
        "fireworks.core.launchpad:LaunchPad.recover_offline",
        """\
            fw_id = launch["fw_id"]
            f = self.fireworks.find_one_and_update(
                {"fw_id": fw_id},
                {"$set": {"state": "RUNNING", "updated_on": datetime.datetime.now(datetime.timezone.utc)}},
            )
            if f:
                self._refresh_wf(fw_id)
""",
        """\
            held = {"launches": launch_id, "state": {"$nin": ["PAUSED", "DEFUSED", "ARCHIVED"]}}
            for fw_id in [f["fw_id"] for f in self.fireworks.find(held, {"fw_id": 1})]:
                self.fireworks.find_one_and_update(
                    {"fw_id": fw_id},
                    {"$set": {"state": "RUNNING", "updated_on": datetime.datetime.now(datetime.timezone.utc)}},
                )
                self._refresh_wf(fw_id)
""",
        "A run that goes on makes every Firework RUNNING that has its launch, and none that somebody has paused, "
        "defused or archived. FireWorks undoes that (W11), and forgets duplicates that share the launch.",
    ),
    Mend(
        "defuse_workflow knows whose action it is",
        "fireworks.core.firework:Workflow.apply_action",
        """\
        for fw_id in self.links.nodes:
            if self.id_fw[fw_id].state not in ["FIZZLED", "COMPLETED"]:
                self.id_fw[fw_id].state = "DEFUSED"
                self.fw_states[fw_id] = "DEFUSED"
                updated_ids.append(fw_id)
""",
        """\
        for node in self.links.nodes:
            if self.id_fw[node].state not in ["FIZZLED", "COMPLETED"]:
                self.id_fw[node].state = "DEFUSED"
                self.fw_states[node] = "DEFUSED"
                updated_ids.append(node)
""",
        "What an action adds hangs below its own Firework. With defuse_workflow FireWorks takes the last node.",
    ),
    Mend(
        "Fireworks do not share values",
        "fireworks.utilities.dict_mods:apply_mod",
        "for action, settings in modification.items():\n",
        "for action, settings in __import__('copy').deepcopy(modification).items():\n",
        "Each child gets values of its own. FireWorks gives them all the same list or object, so that the next "
        "modifier changes it in all of them.",
    ),
    Mend(
        "Fireworks do not share values, update_spec",
        "fireworks.core.firework:Workflow.apply_action",
        ".spec.update(action.update_spec)",
        ".spec.update(__import__('copy').deepcopy(action.update_spec))",
        "The same for update_spec.",
    ),
    Mend(
        "Fireworks do not share values, append_wfs",
        "fireworks.core.firework:Workflow.append_wf",
        ".spec.update(m_launch.action.update_spec)",
        ".spec.update(__import__('copy').deepcopy(m_launch.action.update_spec))",
        "The same for the update_spec that Fireworks of append_wfs get from their parents.",
    ),
    Mend(
        "_pull_all works",
        "fireworks.utilities.dict_mods:apply_mod",
        "if action in DictMods().supported_actions:\n",
        "if action == '_pull_all':\n"
        "            for key, items in settings.items():\n"
        "                if key in obj and not isinstance(obj[key], (list, tuple)):\n"
        "                    raise ValueError(f'Keyword {key} does not refer to an array.')\n"
        "                for item in items:\n"
        "                    DictMods().supported_actions['_pull'](obj, {key: item})\n"
        "        elif action in DictMods().supported_actions:\n",
        "_pull_all removes every item of a list. FireWorks raises AttributeError unless the list is empty.",
    ),
    Mend(
        "_rename to itself",
        "fireworks.utilities.dict_mods:apply_mod",
        "for action, settings in __import__('copy').deepcopy(modification).items():\n",
        "for action, settings in __import__('copy').deepcopy(modification).items():\n"
        "        if action == '_rename':\n"
        "            settings = {old: new for old, new in settings.items() if old != new}\n",
        "A key that is renamed to itself stays. FireWorks removes it.",
    ),
)

#: Makes those of `mends` ([function, old, new] each), and no others, in a process of FireWorks.
MEND = """
import importlib, inspect, sys, textwrap
originals = globals().setdefault("originals", {})

def put(module, path, function):
    owner, (*parents, name) = module, path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    before = getattr(owner, name)
    setattr(owner, name, function)
    for other in list(sys.modules.values()):  # that have imported it by its name
        if vars(other).get(name) is before:
            setattr(other, name, function)
    return before

sources = {}
for where, old, new in mends:
    module_name, _, path = where.partition(":")
    module = importlib.import_module(module_name)
    if where not in originals:
        originals[where] = put(module, path, None)
        put(module, path, originals[where])
    source = sources.get(where) or textwrap.dedent(inspect.getsource(originals[where]))
    assert old in source, (where, old)
    sources[where] = source.replace(old, new)
for where, original in originals.items():
    module_name, _, path = where.partition(":")
    module, made = importlib.import_module(module_name), {}
    if where in sources:
        exec(compile(sources[where], where, "exec"), vars(module), made)
    put(module, path, made.get(path.rpartition(".")[2], original))
result = None
"""
