"""Trainings that take turns in threads and meet at their forward and backward passes, which are then made together.

Each is a Trainer's own run, with its rows, rate, optimizer, checkpoints and end: nothing of that is written anew, and
an adapter is the one that its request alone would have made. Only one thread runs at any time. Whoever needs a pass
waits; once all wait, the main thread makes the pass of all, and goes round again.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeGuard, TypeVar

from asu_lora.errors import AsuLoraError

T = TypeVar("T")
Served = Mapping[int, Any]


class Aborted(BaseException):
    """Ends a training whose meeting is over."""


class Meeting(Generic[T]):
    """Takes jobs through in turns.

    Args:
        serve: what they meet for: gets what each of the waiting asks for, by its number, and gives each its answer.
    """

    def __init__(self, serve: Callable[[Served], Served]):
        self.serve = serve
        self.turn = threading.Condition()
        self.whose: int | None = None  # None is the main thread's
        self.asked: dict[int, Any] = {}
        self.answers: dict[int, Any] = {}
        self.ended: dict[int, T | BaseException] = {}
        self.over = False

    def take_through(self, jobs: Mapping[int, Callable[[], T]]) -> dict[int, T | AsuLoraError]:
        """Run all jobs to their ends.

        Returns:
            By number what each gave, or the AsuLoraError that ended it; the others go on without it.

        Raises:
            BaseException: any other error of a job, or of what they meet for: it ends them all.
        """
        threads = {n: threading.Thread(target=self._job, args=(n, job), daemon=True) for n, job in jobs.items()}
        try:
            for number, thread in threads.items():
                thread.start()
                self._let(number)
            while self.asked:
                asked, self.asked = self.asked, {}
                self.answers = dict(self.serve(asked))
                for number in asked:
                    self._let(number)
        finally:
            self._end([number for number, thread in threads.items() if thread.ident])
        return {number: each for number, each in self.ended.items() if not _unexpected(each)}  # type: ignore[misc]

    def _end(self, begun: Sequence[int]) -> None:
        """Let every job that still waits end where it is."""
        self.over = True
        with self.turn:
            self.turn.wait_for(lambda: self.whose is None)  # an interrupted main thread has left one running
        for number in begun:
            if number not in self.ended:
                self._let(number, check=False)

    def ask(self, number: int, what: Any) -> Any:
        """In a job: wait for the others, and get the answer."""
        with self.turn:
            self.asked[number] = what
            self.whose = None
            self.turn.notify_all()
            self.turn.wait_for(lambda: self.whose == number)
        if self.over:
            raise Aborted
        return self.answers.pop(number)

    def _let(self, number: int, check: bool = True) -> None:
        """Let a job go on until it asks for something, or ends."""
        with self.turn:
            self.whose = number
            self.turn.notify_all()
            self.turn.wait_for(lambda: self.whose is None)
        ended = self.ended.get(number)
        if check and _unexpected(ended):
            raise ended

    def _job(self, number: int, job: Callable[[], T]) -> None:
        with self.turn:
            self.turn.wait_for(lambda: self.whose == number)
        try:
            self.ended[number] = job()
        except BaseException as error:
            self.ended[number] = error
        with self.turn:
            self.whose = None
            self.turn.notify_all()


def _unexpected(ended: object) -> TypeGuard[BaseException]:
    return isinstance(ended, BaseException) and not isinstance(ended, AsuLoraError)
