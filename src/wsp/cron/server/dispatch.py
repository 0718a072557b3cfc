"""From a claimed run to its command and back: orders go to the runner when they are due, ends to the journal.

The commands run in another process, see `wsp.cron.runner`: it goes on when this one dies, and is adopted by the next.
Database work happens on threads, so that a database that is locked or away delays neither commands nor the loop.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import TypeVar

from sqlalchemy.orm import Session

from wsp.cron.folders import FOLDER
from wsp.cron.notices import alerts
from wsp.cron.planning.followups import follow_ups
from wsp.cron.planning.queue import settle
from wsp.cron.planning.rows import Batch, Claim
from wsp.cron.planning.work import End, PlannedRun, Result
from wsp.cron.runner.client import Runner
from wsp.cron.runner.orders import Ended, Order, Started
from wsp.cron.server.commands import CannotStart, orders_for
from wsp.cron.server.journal import AWAY, RETRY_SECONDS, Journal
from wsp.cron.server.offload import Offload
from wsp.cron.server.processes import Process, end_tree
from wsp.cron.server.records import Closing, Start, result_of
from wsp.cron.server.recovery import (
    GRACE_SECONDS,
    RUNNER_GONE,
    give_back,
    inherit,
    output_left,
    remember_runner,
    run_mark,
    still_claimed,
)
from wsp.cron.server.runners import Runners
from wsp.database import Database, utc_now
from wsp.settings import Settings

STALE_CLAIM_SECONDS = 2.0  # a claim is read again before it is acted upon so late: others may have taken us for dead
LONGEST_TIMER_SECONDS = 0.5  # the wall clock may be set meanwhile
POLL_SECONDS = 0.02
KILL_SECONDS = 1.2  # what the runner needs beyond a grace to tell of an end

STOPPED = "The scheduler was stopped"
OVER_ALREADY = "Its run is recorded as over"

logger = logging.getLogger(__name__)

T = TypeVar("T")


class _Stage(Enum):
    PREPARED = auto()  # its order is being made, or is there and waits for its time
    CHECKED = auto()  # the database is asked whether it may be started
    GIVEN = auto()  # a runner has it
    OVER = auto()  # its end is being written


@dataclass
class _Held:
    """A run that is taken care of here."""

    run: PlannedRun
    since: float  # monotonic seconds: when it was claimed, or last found to be still claimed
    stage: _Stage = _Stage.PREPARED
    order: Order | CannotStart | None = None
    runner: Runner | None = None
    process: Process | None = None
    started_at: datetime | None = None
    kill_wanted: str | None = None  # the reason
    kill_grace: float | None = None


class Dispatcher:
    """The runs of this scheduler. Lives on one event loop.

    `on_free` is called when a place is free, or rows of other runs may have changed; `on_written` is told of runs whose
    ends are written.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        claim: Claim,
        *,
        on_free: Callable[[], None],
        on_written: Callable[[Sequence[PlannedRun]], None] = lambda _runs: None,
    ) -> None:
        self._settings = settings
        self._claim = claim
        self._on_free = on_free
        self._on_written = on_written
        self._store = Offload(database, "cron-store")
        self._writer = Offload(database, "cron-journal")
        self._starter = Offload(database, "cron-start", 2)
        self._journal = Journal(settings, self._writer, claim.node, on_written=self._forget)
        self._runners = Runners(
            settings.data_dir / FOLDER,
            on_started=self._started,
            on_ended=self._ended,
            on_gone=self._gone,
            on_ready=self._fire,
            remember=self._remember,
        )
        self._held: dict[int, _Held] = {}
        self._places_taken = 0
        self._going: dict[int, set[int]] = {}  # by job: runs that are given to a runner, or about to be
        self._times: list[tuple[float, int]] = []  # a heap of (seconds since the epoch, run id)
        self._timer: asyncio.TimerHandle | None = None
        self._adopting = 0
        # What adopted runners told before their runs were known here.
        self._early_starts: dict[int, Started] = {}
        self._early: dict[int, Ended] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    @property
    def run_ids(self) -> Collection[int]:
        """The runs that are taken care of here."""
        return self._held.keys()

    @property
    def waiting(self) -> list[PlannedRun]:
        """Those that no runner was told of yet."""
        return [held.run for held in self._held.values() if held.stage is _Stage.PREPARED]

    @property
    def met(self) -> Collection[str]:
        """The ids of the runners that were asked what they run: all that were ever ours."""
        return self._runners.met

    @property
    def free_places(self) -> int:
        """How many more runs may be claimed now."""
        return max(0, self._settings.cron_max_running - self._places_taken)

    def open(self) -> None:
        """Begin to write, and to keep a runner."""
        self._journal.open()
        self._runners.open()

    # --- What is to be started ------------------------------------------------------------------------------------

    def submit(self, runs: Sequence[PlannedRun]) -> None:
        """Start runs whose claims are committed, each at its time."""
        fresh = [run for run in runs if run.run_id not in self._held]
        for run in fresh:
            self._held[run.run_id] = _Held(run, time.monotonic())
        self._places_taken += len(fresh)
        if fresh:
            self._do(self._prepare(fresh))

    def count(self, ends: Sequence[End]) -> None:
        """Count ends that a step of planning has written."""
        self._journal.count(ends)

    def refreshed(self, runs: "dict[int, PlannedRun | None]") -> None:
        """What became of waiting runs when they were read again. None: there is no such tick any more."""
        changed = []
        for run_id, run in runs.items():
            held = self._held.get(run_id)
            if held is None or held.stage is not _Stage.PREPARED:
                continue
            if run is None:
                self._drop(held)
            elif run != held.run:
                held.run, held.order = run, None
                self._unprepare(run)
                changed.append(run)
        if changed:
            self._do(self._prepare(changed))

    async def _prepare(self, runs: Sequence[PlannedRun]) -> None:
        try:
            orders = await self._starter.call(partial(orders_for, runs, self._settings))
        except Exception:  # one run must not end the scheduler
            logger.exception("no orders for runs %s", [run.run_id for run in runs])
            orders = {run.run_id: CannotStart("The command could not be started") for run in runs}
        for run in runs:
            held = self._held.get(run.run_id)
            if held is not None and held.run is run:
                held.order = orders[run.run_id]
                heappush(self._times, (run.start_at.timestamp(), run.run_id))
        self._make_ready(runs)
        self._set_timer()

    def _make_ready(self, runs: Sequence[PlannedRun]) -> None:
        """Have the runner do what it can before they are due. Whether they are started is decided then."""
        runner = self._runners.primary
        if runner is None or self._stopping:
            return
        now = time.time()
        held = [self._held[run.run_id] for run in runs if now < run.start_at.timestamp() and run.run_id in self._held]
        held = [each for each in held if each.stage is _Stage.PREPARED and not self._is_contended(each.run)]
        orders = [each.order for each in held if isinstance(each.order, Order)]
        if orders:
            runner.prepare(orders)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._times and not self._stopping:
            seconds = max(0.0, min(self._times[0][0] - time.time(), LONGEST_TIMER_SECONDS))
            if seconds == 0.0:
                self._fire()
            else:
                self._timer = asyncio.get_running_loop().call_later(seconds, self._fire)

    def _fire(self) -> None:
        """Start what is due, all of it in one go."""
        if self._runners.primary is None or self._stopping:
            return  # called again when there is a runner
        now, clock = time.time(), time.monotonic()
        free, to_settle, to_verify = [], [], []
        while self._times and self._times[0][0] <= now:
            due, run_id = heappop(self._times)
            held = self._held.get(run_id)
            if held is None or held.stage is not _Stage.PREPARED or held.order is None:
                continue
            if held.run.start_at.timestamp() != due:  # its time was changed, and is in the heap again
                continue
            if clock - held.since > STALE_CLAIM_SECONDS:
                held.stage = _Stage.CHECKED
                to_verify.append(held)
            elif self._is_contended(held.run):
                held.stage = _Stage.CHECKED
                to_settle.append(held)
            else:
                free.append(held)
            self._going.setdefault(held.run.job.id, set()).add(run_id)
        self._give(free)
        if to_settle:
            self._do(self._settle(to_settle))
        if to_verify:
            self._do(self._verify(to_verify))
        self._set_timer()

    def _is_contended(self, run: PlannedRun) -> bool:
        """Do its job's policies have to decide, for another run of it goes on?"""
        return run.contended or (run.job.id in self._going and run.job.policy.overlap != "allow")

    def _give(self, helds: Sequence[_Held]) -> None:
        """Hand orders to the runner."""
        runner = self._runners.primary
        orders = []
        for held in helds:
            if held.kill_wanted is not None:
                self._close(held, _never_started("killed", held.kill_wanted))
            elif isinstance(held.order, CannotStart):
                now = utc_now()
                ended = Ended(held.run.run_id, now.timestamp(), now.timestamp(), 0, trouble=held.order.sentence)
                self._close(held, result_of(held.run, ended))
            elif runner is None or held.order is None or self._stopping:  # it died just now, or is to be given back
                self._wait_again(held)
            else:
                held.stage, held.runner = _Stage.GIVEN, runner
                orders.append(held.order)
        if orders and runner is not None:
            runner.start(orders)

    def _wait_again(self, held: _Held) -> None:
        held.stage = _Stage.PREPARED
        self._not_going(held.run)
        heappush(self._times, (held.run.start_at.timestamp(), held.run.run_id))

    async def _settle(self, helds: Sequence[_Held]) -> None:
        """Of jobs of which a run is going on already: let the policies decide."""
        runs = [held.run for held in helds]

        def decide(session: Session) -> Batch:
            now = utc_now()
            batch = settle(session, runs, now, self._settings.zone, self._claim)
            if batch.ends:
                follow_ups(session, batch.ends, now)
                alerts.on_ends(session, self._settings, batch.ends, now)
            return batch

        try:
            batch = await self._insist(decide, "overlap is not settled yet")
        except Exception:
            self._let_go(helds)
            raise
        self._journal.count(batch.ends)
        to_start = {run.run_id for run in batch.runs}
        for held in helds:
            if held.run.run_id not in to_start:
                self._drop(held)
        self._give([held for held in helds if held.run.run_id in to_start])
        self._on_free()

    async def _verify(self, helds: Sequence[_Held]) -> None:
        ids = [held.run.run_id for held in helds]
        try:
            claimed = await self._insist(
                lambda session: still_claimed(session, ids, self._claim.service_id), "claims are not read again yet"
            )
        except Exception:
            self._let_go(helds)
            raise
        for held in helds:
            if held.run.run_id in claimed:
                held.since = time.monotonic()
                self._wait_again(held)
            else:
                logger.warning("run %s is not started: it was taken away from here", held.run.run_id)
                self._drop(held)
        self._fire()

    def _let_go(self, helds: Sequence[_Held]) -> None:
        """Something unforeseen happened to them before they were started: recovery gives their rows back."""
        for held in helds:
            self._drop(held)

    # --- What the runners tell ------------------------------------------------------------------------------------

    def _started(self, starts: Sequence[Started]) -> None:
        for started in starts:
            held = self._held.get(started.run_id)
            if held is not None and held.stage is _Stage.GIVEN and held.runner is not None:
                held.process = Process(started.pid, started.pid_started)
                held.started_at = datetime.fromtimestamp(started.at, UTC)
                self._journal.started(Start(held.run, started, held.runner.id, self._claim.service_id))
            elif held is None and self._adopting:
                self._early_starts[started.run_id] = started

    def _ended(self, ends: Sequence[Ended]) -> None:
        for ended in ends:
            held = self._held.get(ended.run_id)
            if held is not None:
                if held.stage is _Stage.GIVEN:
                    self._close(held, result_of(held.run, ended))
            elif self._adopting:
                self._early[ended.run_id] = ended
            else:
                self._acknowledge([ended.run_id])
        self._on_free()

    def _gone(self, runner: Runner) -> None:
        ours = [held for held in self._held.values() if held.runner is runner]
        for held in ours:
            held.runner = None
        lost = [held for held in ours if held.stage is _Stage.GIVEN]
        if lost:
            self._do(self._lose(runner, lost))

    async def _lose(self, runner: Runner, helds: Sequence[_Held]) -> None:
        marks = {run_mark(runner.id, held.run.run_id) for held in helds}
        leaders = [held.process for held in helds if held.process is not None]
        try:
            await self._starter.call(lambda: end_tree(marks, leaders, grace=GRACE_SECONDS))
        except OSError:
            logger.exception("the commands of runner %s could not all be ended", runner.id)
        for held in helds:
            output = await self._starter.call(partial(output_left, self._settings.data_dir, held.run.run_id))
            self._close(held, Result("lost", held.started_at, utc_now(), RUNNER_GONE, output=output))

    def _close(self, held: _Held, result: Result) -> None:
        held.stage = _Stage.OVER
        self._places_taken -= 1
        self._not_going(held.run)
        self._unprepare(held.run)
        self._journal.ended(Closing(End(held.run, result), self._claim.service_id))

    def close_orphan(self, run: PlannedRun, result: Result, claimed_by: str) -> None:
        """Write the end of a run that `claimed_by`, another scheduler or this one, has lost."""
        self._journal.ended(Closing(End(run, result), claimed_by))

    def _forget(self, runs: Sequence[PlannedRun]) -> None:
        by_runner: dict[Runner, list[int]] = {}
        for run in runs:
            held = self._held.pop(run.run_id, None)
            if held is not None and held.runner is not None:
                by_runner.setdefault(held.runner, []).append(run.run_id)
        for runner, run_ids in by_runner.items():
            self._runners.acknowledge(runner, run_ids)
        self._on_written(runs)
        self._on_free()  # what follows them may have been written as well

    def _acknowledge(self, run_ids: Sequence[int]) -> None:
        for run_id in run_ids:
            runner = self._runners.owner_of(run_id)
            if runner is not None:
                runner.acknowledge([run_id])

    def _drop(self, held: _Held) -> None:
        """Have nothing to do with a run any more that was never started."""
        del self._held[held.run.run_id]
        self._places_taken -= 1
        self._not_going(held.run)
        self._unprepare(held.run)
        self._on_free()

    def _unprepare(self, run: PlannedRun) -> None:
        if self._runners.primary is not None:
            self._runners.primary.drop([run.run_id])

    def _not_going(self, run: PlannedRun) -> None:
        going = self._going.get(run.job.id)
        if going is not None:
            going.discard(run.run_id)
            if not going:
                del self._going[run.job.id]

    # --- What is to be ended --------------------------------------------------------------------------------------

    def kill(self, run_id: int, reason: str, grace: float | None = None) -> None:
        """End a run: its whole tree, or what it would have started. Saying it again does nothing."""
        held = self._held.get(run_id)
        if held is None or held.stage is _Stage.OVER:
            return
        if held.kill_wanted is not None and grace in (None, held.kill_grace):
            return
        held.kill_wanted, held.kill_grace = reason, grace
        if held.stage is _Stage.PREPARED:
            self._close(held, _never_started("killed", reason))
        elif held.stage is _Stage.GIVEN and held.runner is not None:
            held.runner.kill(run_id, reason=reason, grace=grace)

    # --- What others have left ------------------------------------------------------------------------------------

    async def adopt(self) -> int:
        """Take over the runs of runners whose schedulers died. Returns how many."""
        self._adopting += 1
        try:
            runners = await self._runners.adopt()
            taken = 0
            for runner in runners:
                taken += await self._inherit(runner)
            return taken
        finally:
            self._adopting -= 1
            if not self._adopting:
                self._acknowledge(list(self._early))
                self._early.clear()
                self._early_starts.clear()
            await self._runners.dismiss_idle()

    async def _inherit(self, runner: Runner) -> int:
        ids = set(runner.runs)
        inherited = await self._insist(
            lambda session: inherit(session, ids, runner.id, self._claim), "the runs of another are not adopted yet"
        )
        for run_id, (run, process, started_at) in inherited.open.items():
            self._held[run_id] = _Held(run, time.monotonic(), _Stage.GIVEN, None, runner, process, started_at)
            self._going.setdefault(run.job.id, set()).add(run_id)
        self._places_taken += len(inherited.open)
        for run_id in inherited.over - self._early.keys():
            runner.kill(run_id, reason=OVER_ALREADY)
        self._runners.met.add(runner.id)
        logger.info("adopted runner %s with %s runs", runner.id, len(inherited.open))
        self._started([self._early_starts[run_id] for run_id in inherited.open if run_id in self._early_starts])
        self._ended([self._early.pop(run_id) for run_id in inherited.open if run_id in self._early])
        return len(inherited.open)

    async def dismiss_idle(self) -> None:
        """Let adopted runners go whose commands have ended."""
        await self._runners.dismiss_idle()

    # --- The end --------------------------------------------------------------------------------------------------

    def start_no_more(self) -> None:
        """From now on nothing is given to a runner."""
        self._stopping = True

    async def stop(self, *, patience: float, grace: float, write_within: float) -> None:
        """Let commands go on for `patience` seconds, then end their trees: SIGTERM, SIGKILL after `grace` seconds.

        What came of them is written, and what was not started is given back, for which there are `write_within`
        seconds more: with a database that is away, the next scheduler hears it from the runner.
        """
        self._stopping = True
        await self._until(lambda: not self._going_on, patience)
        if self._going_on:
            logger.info("ending %s commands: the scheduler stops", len(self._going_on))
            for held in self._going_on:
                self.kill(held.run.run_id, STOPPED, grace)
            await self._until(lambda: not self._going_on, grace + KILL_SECONDS)
        unstarted = [held.run.run_id for held in self._held.values() if held.stage in (_Stage.PREPARED, _Stage.CHECKED)]
        giving_back = asyncio.create_task(
            self._store.change(lambda session: give_back(session, unstarted, self._claim.service_id))
        )
        await self._journal.close(write_within)
        await asyncio.wait({giving_back}, timeout=write_within if unstarted else 0)
        for task in (*self._tasks, giving_back):
            task.cancel()
        await asyncio.gather(*self._tasks, giving_back, return_exceptions=True)
        await self._runners.close()
        await asyncio.gather(self._starter.close(), self._store.close(), self._writer.close())

    @property
    def _going_on(self) -> list[_Held]:
        return [held for held in self._held.values() if held.stage is _Stage.GIVEN]

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110 - several things end it
            await asyncio.sleep(POLL_SECONDS)

    # --- Work -----------------------------------------------------------------------------------------------------

    async def _remember(self, runner_id: str) -> None:
        await self._insist(
            lambda session: remember_runner(session, self._claim.service_id, runner_id), "a runner is not noted yet"
        )

    async def _insist(self, step: Callable[[Session], T], what: str) -> T:
        """Do `step` in a transaction, again and again until it is committed: a database that is away comes back."""
        for attempt in count():
            try:
                return await self._store.change(step)
            except AWAY as error:
                pause = RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]
                logger.warning("%s, again in %s s: %s", what, pause, error)
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def _do(self, work: Awaitable[None]) -> None:
        async def doing() -> None:
            try:
                await work
            except Exception:
                logger.exception("a step of running commands went wrong")

        task = asyncio.get_running_loop().create_task(doing())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _never_started(status: str, reason: str) -> Result:
    now: datetime = utc_now()
    return Result(status, None, now, reason)  # type: ignore[arg-type]
