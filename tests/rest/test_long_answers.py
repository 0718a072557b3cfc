"""Bodies of any length."""

import asyncio
import gc
import os
from pathlib import Path

import pytest
from fastapi import Response
from fastapi.responses import StreamingResponse

from wsp.rest import long_answers
from wsp.rest.long_answers import LongBody


def open_files() -> int:
    """How many files of answers this process has open."""
    names = [Path("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]
    return sum("wsp-answer-" in os.readlink(name) or "deleted" in os.readlink(name) for name in names if name.exists())


def content(answer: Response) -> bytes:
    if not isinstance(answer, StreamingResponse):
        return bytes(answer.body)

    async def read() -> bytes:
        return b"".join([bytes(each) async for each in answer.body_iterator])  # type: ignore[arg-type]

    return asyncio.run(read())


class TestItems:
    def test_are_those_of_an_array(self) -> None:
        body = LongBody()
        body.write(b"[")
        assert body.write_items(iter([{"a": 1}, "ü", None])) == 3
        body.write(b"]")
        assert content(body.answer({})) == '[{"a":1},"ü",null]'.encode()

    def test_may_be_none(self) -> None:
        body = LongBody()
        assert body.write_items([]) == 0
        assert len(body) == 0


class TestAnswer:
    def test_a_short_one_is_in_memory(self) -> None:
        body = LongBody()
        body.write(b"short")
        answer = body.answer({"X-Total-Count": "1"})
        assert not isinstance(answer, StreamingResponse)
        assert (answer.headers["content-length"], answer.headers["x-total-count"]) == ("5", "1")

    def test_a_long_one_is_in_a_file_that_several_can_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(long_answers, "BYTES_IN_MEMORY", 1000)
        monkeypatch.setattr(long_answers, "BYTES_AT_ONCE", 300)
        body = LongBody()
        pieces = [b"%d" % n * 50 for n in range(100)]
        for piece in pieces:
            body.write(piece)
        answers = [body.answer({}), body.answer({})]
        assert all(isinstance(answer, StreamingResponse) for answer in answers)
        assert answers[0].headers["content-length"] == str(len(body))
        assert [content(answer) for answer in answers] == [b"".join(pieces)] * 2

    def test_its_file_is_gone_with_it(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(long_answers, "BYTES_IN_MEMORY", 1000)
        before = open_files()
        body = LongBody()
        body.write(b"x" * 2000)
        assert open_files() == before + 1
        answer = body.answer({})
        del body
        assert content(answer) == b"x" * 2000
        del answer
        gc.collect()
        assert open_files() == before
