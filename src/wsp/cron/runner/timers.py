"""Things to do later, by a monotonic clock."""

import time
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

_LONGEST_WAIT = 3600.0  # seconds
_FORGOTTEN = 1000  # so many that were cancelled may wait along


class Timer:
    """One of them."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action


class Timers:
    """What is to be done when. Hours of time-outs that nobody needs any more take no memory."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._cancelled = 0

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Have something done in so many seconds."""
        timer = Timer(action)
        heappush(self._heap, (time.monotonic() + seconds, next(self._numbers), timer))
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """It is not to be done, if there is a timer, and it was not done already."""
        if timer is None or timer.action is None:
            return
        timer.action = None
        self._cancelled += 1
        if self._cancelled > _FORGOTTEN and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].action is not None]
            heapify(self._heap)
            self._cancelled = 0

    def wait(self) -> float | None:
        """Seconds until something is to be done, or to ask again; None when nothing is."""
        while self._heap and self._heap[0][2].action is None:
            heappop(self._heap)
            self._cancelled -= 1
        # No longer than an hour: what waits for descriptors cannot count the milliseconds of a month.
        return min(max(0.0, self._heap[0][0] - time.monotonic()), _LONGEST_WAIT) if self._heap else None

    def run_due(self) -> None:
        """Do what is to be done now, earliest first."""
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            timer = heappop(self._heap)[2]
            if timer.action is None:
                self._cancelled -= 1
            else:
                action, timer.action = timer.action, None
                action()
