"""Waiting for something that nobody tells."""

import time
from collections.abc import Callable

DEADLINE_SECONDS = 60.0


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, or fail the test."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
