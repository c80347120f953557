"""A worker (FireWorks' FWorker): its name, what it may run, and the query that follows from it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

#: The category that asks for Fireworks without a category.
NO_CATEGORY = "__none__"


@dataclass(frozen=True)
class Worker:
    """One ``my_fworker.yaml``: ``query`` is a MongoDB filter on Fireworks, ``env`` goes to the job."""

    name: str
    category: str | tuple[str, ...] = ""
    query: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the worker as FireWorks stores it in a launch: ``query`` is a JSON text there."""
        category = list(self.category) if isinstance(self.category, tuple) else self.category
        return {
            "name": self.name,
            "category": category,
            "query": json.dumps(self.query),
            "env": dict(self.env),
        }

    def ready_query(self) -> dict[str, Any]:
        """Return the filter of the READY Fireworks this worker may take (``FWorker.query``, 2.1.4)."""
        query = dict(self.query)
        mine = [
            {"spec._fworker": {"$exists": False}},
            {"spec._fworker": None},
            {"spec._fworker": self.name},
        ]
        if "$or" in query:
            query["$and"] = [*query.get("$and", []), {"$or": query.pop("$or")}, {"$or": mine}]
        else:
            query["$or"] = mine
        query.update(self._category_condition())
        query["state"] = "READY"
        return query

    def _category_condition(self) -> dict[str, Any]:
        if self.category == NO_CATEGORY:
            return {"spec._category": {"$exists": False}}
        if isinstance(self.category, tuple) and self.category:
            return {"spec._category": {"$in": list(self.category)}}
        return {"spec._category": self.category} if self.category else {}
