"""What a plan is made of: the documents that were read, the writes, and what can keep a report from both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Document = dict[str, Any]


@dataclass
class Missing(Exception):
    """A rule needs what was not read: whole ``fireworks``, ``launches``, or only ``flags`` of them.

    ``owners`` are launches of which all the Fireworks that list them are to be found; ``new_ids`` is how
    many more ids for new Fireworks are needed.
    """

    fireworks: set[int] = field(default_factory=set)
    launches: set[int] = field(default_factory=set)
    flags: set[int] = field(default_factory=set)
    owners: set[int] = field(default_factory=set)
    new_ids: int = 0

    def __bool__(self) -> bool:
        return bool(self.fireworks or self.launches or self.flags or self.new_ids)

    def add(self, other: Missing) -> None:
        """Take over what another rule needs."""
        self.fireworks |= other.fireworks
        self.launches |= other.launches
        self.flags |= other.flags
        self.new_ids += other.new_ids


@dataclass
class World:
    """The documents a plan may use, as they were read under the locks.

    ``workflows`` are the locked ones, keyed by nothing; ``fireworks``, ``launches`` are keyed by their
    ids; ``runs`` holds the offline runs of each launch; ``tolerant`` tells of Fireworks that were not
    read whole whether they have ``_allow_fizzled_parents``; ``refused`` tells for a Firework whose
    workflow is not locked by us, or is damaged, the reason, ``damaged`` the same of the latter only; ``gone``
    is what was looked for and does not exist; ``new_ids`` are ids that nobody else will use, for Fireworks
    that actions add; ``full`` are Fireworks
    that have no room for all that the batch would add to their spec: whether (Firework, spec) fits into a document
    is then asked of ``fits``, change by change; ``bursting``
    are those whose actions add a Firework that fits into no document, ``cramped`` those that add more than their
    workflow's has room for;
    ``unread`` tells for a launch whose action is in GridFS and cannot be
    read from there the reason: its ``action`` is then the reference, ``{"gridfs_id": ...}``; ``owners`` tells
    of launches all the Fireworks that list them, also those whose workflow is not locked; ``sizes`` are bytes
    of Fireworks as they are stored.
    """

    workflows: list[Document] = field(default_factory=list)
    fireworks: dict[int, Document] = field(default_factory=dict)
    launches: dict[int, Document] = field(default_factory=dict)
    runs: dict[int, list[Document]] = field(default_factory=dict)
    tolerant: dict[int, bool] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    damaged: dict[int, str] = field(default_factory=dict)
    gone: Missing = field(default_factory=Missing)
    new_ids: list[int] = field(default_factory=list)
    full: set[int] = field(default_factory=set)
    owners: dict[int, list[int]] = field(default_factory=dict)
    bursting: set[int] = field(default_factory=set)
    cramped: set[int] = field(default_factory=set)
    sizes: dict[int, int] = field(default_factory=dict)
    unread: dict[int, str] = field(default_factory=dict)
    fits: Callable[[int, Document], bool] = field(
        default=lambda _fw_id, _spec: False, compare=False
    )


@dataclass(frozen=True)
class Write:
    """One MongoDB update: absolute values only, so that running it twice is running it once.

    ``many`` marks an update of all matching documents, ``upsert`` one that inserts what is not there.
    """

    collection: str
    filter: Document
    update: Document
    many: bool = False
    upsert: bool = False


class Ignore(Exception):
    """The report will never be applied."""


class Defer(Exception):
    """The report cannot be applied now."""
