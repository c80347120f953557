"""The FWorker that a Firework runs for: the one that reserved it, as ``FW.json`` has it.

FireWorks takes the one that `rlaunch` finds configured on the compute node instead. Facts: FireWorks
2.1.4, ``fireworks/core/rocket.py`` and ``fworker.py``.
"""

import json
import sys
from typing import Any, Dict, NamedTuple, Union


class Worker(NamedTuple):
    """A worker; ``name`` is empty where ``FW.json`` names none."""

    name: str = ""
    category: Union[str, list] = ""  # type: ignore[type-arg]
    query: Dict[str, Any] = {}  # noqa: RUF012
    env: Dict[str, Any] = {}  # noqa: RUF012


def worker_of(firework: Dict[str, Any]) -> Worker:
    """Return the worker of the last launch of a Firework."""
    try:
        given = firework["launches"][-1]["fworker"]
    except (KeyError, IndexError, TypeError):
        given = None
    given = given if isinstance(given, dict) else {}
    name, category, env = given.get("name"), given.get("category"), given.get("env")
    return Worker(
        name if isinstance(name, str) else "",
        category if isinstance(category, (str, list)) else "",
        _query(given.get("query")),
        env if isinstance(env, dict) else {},
    )


def attributes(firework: Dict[str, Any]) -> Dict[str, Any]:
    """Return the attributes that the spec asks for on each task that is an object."""
    spec = firework["spec"]
    asked: Dict[str, Any] = {}
    if spec.get("_add_launchpad_and_fw_id"):
        asked.update(fw_id=firework.get("fw_id", -1), launchpad=None)
    if spec.get("_add_fworker"):
        asked["fworker"] = _like_fireworks(worker_of(firework))
    return asked


def _like_fireworks(worker: Worker) -> Any:
    # Imported already if a task of this Firework is FireWorks' or derived from it: then it may want this.
    module = sys.modules.get("fireworks.core.fworker")
    return module.FWorker(*worker) if module else worker


def _query(text: Any) -> Dict[str, Any]:
    try:
        query = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return query if isinstance(query, dict) else {}
