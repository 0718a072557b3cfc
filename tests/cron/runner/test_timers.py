"""Things to do later."""

import time

from wsp.cron.runner.timers import Timers


def test_they_come_in_their_order_and_once() -> None:
    timers, done = Timers(), []
    timers.after(0.02, lambda: done.append(2))
    timers.after(0.0, lambda: done.append(1))
    cancelled = timers.after(0.0, lambda: done.append(0))
    timers.cancel(cancelled)
    timers.cancel(cancelled)
    timers.cancel(None)
    while timers.wait() is not None:
        time.sleep(timers.wait() or 0)
        timers.run_due()
    assert done == [1, 2]


def test_one_may_cancel_the_next() -> None:
    timers, done = Timers(), []
    timers.after(0, lambda: timers.cancel(second))
    second = timers.after(0, lambda: done.append(2))
    time.sleep(0.001)
    timers.run_due()
    assert done == []
    assert timers.wait() is None


def test_those_that_were_cancelled_take_no_memory() -> None:
    timers, done = Timers(), []
    timers.after(0, lambda: done.append(1))
    for _ in range(100_000):
        timers.cancel(timers.after(3600, lambda: None))
    assert len(timers._heap) < 5000
    time.sleep(0.001)
    timers.run_due()
    assert done == [1]


def test_a_month_is_waited_for_in_parts() -> None:
    timers = Timers()
    timers.after(float("inf"), lambda: None)
    assert timers.wait() == 3600
