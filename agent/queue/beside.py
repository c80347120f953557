"""A queue asked beside the passes: its commands may take a minute each, and what comes back must not wait for them.

One thread of its own, and no other, uses the queue behind it. The caller's thread goes on with ``meanwhile`` until
there is an answer, so all that touches the database stays in that thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from agent.jobs import JobEnd, NotWaitedFor, QueuedJob, QueueSilent, Submission, Submitted

if TYPE_CHECKING:
    from agent.queue import Queue

T = TypeVar("T")
#: What somebody has asked of the queue of a host, about these launches.
_Asked = tuple[str, frozenset[int]]


class Beside:
    """As ``agent.queue.Queue``, without keeping the caller from his other work."""

    def __init__(
        self,
        queue: Queue,
        *,
        meanwhile: Callable[[], bool],
        answered: Callable[[], None],
        settled: Callable[[], None],
    ) -> None:
        """``meanwhile`` waits for a moment, and does what is due; it returns False if no answer is wanted any more.

        From the queue's thread, ``answered`` is called when there is an answer, and ``settled`` when it is time to
        ask ``submitted`` again, with success.
        """
        self._queue = queue
        self._meanwhile = meanwhile
        self._answered = answered
        self._settled = settled
        self.lists = queue.lists
        self._questions: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._asked: dict[_Asked, Future[dict[int, str] | None]] = {}

    def submit_all(
        self, submissions: Sequence[Submission], tend: Callable[[], None] = lambda: None
    ) -> Iterator[Submitted]:
        """Submit as the queue does. What has begun when no answer is wanted any more is ended; then QueueSilent."""
        if not submissions:
            return
        handed = _Handed(self._queue, submissions, self._answered)
        whole = self._begin(handed.submit)
        try:
            while not whole.done():
                yield from handed.outcomes()
                tend()
                if not self._meanwhile() and not handed.give_up():
                    raise _stopped()
            yield from handed.outcomes()
            whole.result()
        finally:
            handed.give_up()

    def depth(self) -> int | None:
        return self._queue.depth()

    def listing(self) -> dict[str, QueuedJob]:
        return self._ask(self._queue.listing)

    def ends(self, job_ids: Iterable[str]) -> dict[str, JobEnd]:
        wanted = list(job_ids)
        return self._ask(lambda: self._queue.ends(wanted))

    def cancel(self, job_ids: Iterable[str]) -> None:
        wanted = list(job_ids)
        self._ask(lambda: self._queue.cancel(wanted))

    def submitted(self, host: str, launch_ids: list[int]) -> dict[int, str] | None:
        """Return None at first, and when the queue has told, what it has told: it never waits.

        It is asked in the midst of changes of the database, where nothing else can be done meanwhile. What is
        true of the jobs of a claim that was cut stays true, as nobody submits them any more.
        """
        key = host, frozenset(launch_ids)
        answer = self._asked.pop(key, None)
        if answer is not None and answer.done():
            return answer.result()
        self._asked[key] = answer or self._begin(
            lambda: self._queue.submitted(host, launch_ids), self._tell
        )
        return None

    def tend(self) -> None:
        self._queue.tend()

    def close(self) -> None:
        """Ask nothing more; what was asked is answered to nobody."""
        self._questions.put(None)

    def _tell(self, answer: dict[int, str] | None) -> None:
        if answer is not None:
            self._settled()

    def _ask(self, question: Callable[[], T]) -> T:
        answer = self._begin(question)
        while not answer.done():
            if not self._meanwhile():
                raise _stopped()
        return answer.result()

    def _begin(
        self, question: Callable[[], T], then: Callable[[T], None] = lambda _answer: None
    ) -> Future[T]:
        future: Future[T] = Future()

        def ask() -> None:
            try:
                answer = question()
            except BaseException as error:  # noqa: BLE001 - it is raised where the answer is wanted
                future.set_exception(error)
            else:
                future.set_result(answer)
                then(answer)
            self._answered()

        self._questions.put(ask)
        if self._thread is None:
            # A command that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._work, name="queue", daemon=True)
            self._thread.start()
        return future

    def _work(self) -> None:
        while (ask := self._questions.get()) is not None:
            ask()


class _Handed:
    """Submissions in the hands of the queue's thread."""

    def __init__(
        self, queue: Queue, submissions: Sequence[Submission], answered: Callable[[], None]
    ) -> None:
        self._queue = queue
        self._submissions = submissions
        self._answered = answered
        self._outcomes: SimpleQueue[Submitted] = SimpleQueue()
        self._begun, self._given_up = threading.Event(), threading.Event()

    def submit(self) -> None:
        """Submit them; in the queue's thread."""
        self._begun.set()
        self._go_on()
        for outcome in self._queue.submit_all(self._submissions, self._go_on):
            self._outcomes.put(outcome)
            self._answered()

    def outcomes(self) -> Iterator[Submitted]:
        """Yield what has become of some since the last time."""
        while not self._outcomes.empty():
            yield self._outcomes.get()

    def give_up(self) -> bool:
        """Have no more of them submitted; return whether some may have been."""
        self._given_up.set()
        return self._begun.is_set()

    def _go_on(self) -> None:
        if self._given_up.is_set():
            raise _stopped()


def _stopped() -> QueueSilent:
    return NotWaitedFor("the queue is not waited for: fwagent stops")
