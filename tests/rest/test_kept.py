"""Kept answers: never older than the store."""

import asyncio
from collections.abc import Callable

import pytest

from wsp.rest.kept import MAX_BODY_BYTES, Answer, KeptAnswers
from wsp.rest.long_answers import LongBody


class Version:
    """A version of the store that moves when a test says so."""

    def __init__(self, *, exact: bool = True) -> None:
        self.exact = exact
        self.number = 0

    def start(self) -> None:
        """Nothing to follow."""

    def current(self) -> int:
        return self.number

    def note_commit(self) -> None:
        self.number += 1

    def close(self) -> None:
        """Nothing to let go of."""


def maker(made: list[int], body: bytes = b"[]") -> Callable[[], Answer]:
    """Makes an answer, and notes that it did."""

    def make() -> Answer:
        made.append(1)
        kept = LongBody()
        kept.write(body)
        return Answer(kept, {"X-Total-Count": "0"})

    return make


class TestGet:
    def test_an_answer_is_made_once_for_each_version_and_key(self) -> None:
        version, made = Version(), list[int]()

        async def scenario() -> None:
            kept = KeptAnswers(version)
            for key in ("ann", "ann", "bob"):
                response = await kept.get(key, maker(made))
                assert (bytes(response.body), response.headers["x-total-count"]) == (b"[]", "0")
            assert len(made) == 2
            version.number = 1
            await kept.get("ann", maker(made))
            assert len(made) == 3

        asyncio.run(scenario())

    def test_many_at_once_have_it_made_once(self) -> None:
        made: list[int] = []

        async def scenario() -> None:
            kept = KeptAnswers(Version())
            await asyncio.gather(*(kept.get("ann", maker(made)) for _ in range(20)))

        asyncio.run(scenario())
        assert len(made) == 1

    def test_a_commit_while_it_is_made_has_it_made_again(self) -> None:
        version, made = Version(), list[int]()

        def make_during_commit() -> Answer:
            version.number += 1
            return maker(made)()

        async def scenario() -> None:
            kept = KeptAnswers(version)
            await kept.get("ann", make_during_commit)
            await kept.get("ann", maker(made))

        asyncio.run(scenario())
        assert len(made) == 2

    def test_nothing_is_kept_of_a_store_that_cannot_tell(self) -> None:
        made: list[int] = []

        async def scenario() -> None:
            kept = KeptAnswers(Version(exact=False))
            for _ in range(3):
                await kept.get("ann", maker(made))

        asyncio.run(scenario())
        assert len(made) == 3

    def test_neither_failures_nor_long_answers_are_kept(self) -> None:
        made: list[int] = []

        def fail() -> Answer:
            made.append(1)
            raise LookupError

        async def scenario() -> None:
            kept = KeptAnswers(Version())
            for _ in range(2):
                with pytest.raises(LookupError):
                    await kept.get("failing", fail)
                await kept.get("long", maker(made, b"x" * (MAX_BODY_BYTES + 1)))

        asyncio.run(scenario())
        assert len(made) == 4
