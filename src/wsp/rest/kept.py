"""Answers that are asked for again and again, kept while they are true.

Dashboards ask for the same list every few seconds. On SQLite it costs some microseconds to see that nothing was
committed since an answer was made; the answer is then sent again as it is. On PostgreSQL nothing is kept: there is
no such exact look.
"""

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from fastapi import Response
from fastapi.concurrency import run_in_threadpool

from wsp.rest.long_answers import LongBody
from wsp.version import StoreVersion

MAX_ANSWERS = 200
MAX_BODY_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """The body and the headers of a JSON answer."""

    body: LongBody
    headers: dict[str, str] = field(default_factory=dict)


class KeptAnswers:
    """Lives on the event loop."""

    def __init__(self, version: StoreVersion) -> None:
        self._version = version
        self._as_of = -1
        self._answers: dict[Hashable, asyncio.Future[Answer]] = {}

    async def get(self, key: Hashable, make: Callable[[], Answer]) -> Response:
        """The answer of that key, made on a thread unless one is kept or being made.

        The key names everything that the answer depends on, but for the store: who may see what, and every parameter.
        """
        answer = await (self._kept(key, make) if self._version.exact else run_in_threadpool(make))
        return answer.body.answer(answer.headers)

    async def _kept(self, key: Hashable, make: Callable[[], Answer]) -> Answer:
        # The version is taken before the store is read, so what is read is at least as new.
        version = self._version.current()
        if version != self._as_of:
            self._as_of = version
            self._answers = {}
        answers, making = self._answers, self._answers.get(key)
        if making is None:
            making = asyncio.ensure_future(run_in_threadpool(make))
            if len(answers) < MAX_ANSWERS:
                answers[key] = making
                making.add_done_callback(lambda made: None if _is_worth_keeping(made) else answers.pop(key))
        return await asyncio.shield(making)  # a client that leaves does not take the others' answer with it


def _is_worth_keeping(made: "asyncio.Future[Answer]") -> bool:
    return not made.cancelled() and made.exception() is None and len(made.result().body) <= MAX_BODY_BYTES
