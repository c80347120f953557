"""The query of a worker and how a launch stores it."""

import json

import pytest

from fwcore.worker import Worker

MINE = [
    {"spec._fworker": {"$exists": False}},
    {"spec._fworker": None},
    {"spec._fworker": "w"},
]


@pytest.mark.parametrize(
    ("category", "query", "expected"),
    [
        ("", {}, {"$or": MINE}),
        ((), {}, {"$or": MINE}),
        ("small", {}, {"$or": MINE, "spec._category": "small"}),
        ("__none__", {}, {"$or": MINE, "spec._category": {"$exists": False}}),
        (("a", "b"), {}, {"$or": MINE, "spec._category": {"$in": ["a", "b"]}}),
        ("", {"spec.cores": {"$lte": 4}}, {"spec.cores": {"$lte": 4}, "$or": MINE}),
        ("", {"$or": [{"a": 1}]}, {"$and": [{"$or": [{"a": 1}]}, {"$or": MINE}]}),
        (
            "x",
            {"$or": [{"a": 1}], "$and": [{"b": 2}]},
            {"$and": [{"b": 2}, {"$or": [{"a": 1}]}, {"$or": MINE}], "spec._category": "x"},
        ),
        ("", {"$and": [{"b": 2}]}, {"$and": [{"b": 2}], "$or": MINE}),
        ("", {"state": "WAITING"}, {"$or": MINE}),
    ],
)
def test_the_ready_query(category, query, expected) -> None:
    given = json.loads(json.dumps(query))
    worker = Worker("w", category, query)
    assert worker.ready_query() == {**expected, "state": "READY"}
    assert worker.ready_query() == worker.ready_query()
    assert query == given


@pytest.mark.parametrize(("category", "stored"), [("", ""), ("a", "a"), (("a", "b"), ["a", "b"])])
def test_a_launch_holds_the_query_as_a_json_text(category, stored) -> None:
    worker = Worker("w", category, {"a": {"$gt": 1}}, {"scratch": "/tmp"})
    document = worker.document()
    assert json.loads(document.pop("query")) == {"a": {"$gt": 1}}
    assert document == {"name": "w", "category": stored, "env": {"scratch": "/tmp"}}
