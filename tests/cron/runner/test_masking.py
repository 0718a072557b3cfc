"""Secrets in output."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsp.cron.runner.masking import Masking, Secrets

LETTERS = st.sampled_from("ab\n")
VALUES = st.lists(st.text(LETTERS, max_size=8), max_size=4)


def masked(chunks: list[bytes], *values: str) -> bytes:
    masking = Masking(Secrets(values))
    return b"".join(masking.feed(chunk) for chunk in chunks) + masking.end()


def one_by_one(data: bytes, secrets: list[bytes]) -> bytes:
    """The same, as it is meant: what overlaps is one."""
    shown, end = b"", 0
    for at in range(len(data)):
        longest = max((len(secret) for secret in secrets if data.startswith(secret, at)), default=0)
        if longest and at >= end:
            shown += b"***"
        end = max(end, at + longest)
        if at >= end:
            shown += data[at : at + 1]
    return shown


class TestMasking:
    def test_wherever_it_stands(self) -> None:
        assert masked([b"hunter2 xhunter2y\nhunter2"], "hunter2") == b"*** x***y\n***"

    def test_in_whatever_chunks_it_comes(self) -> None:
        assert (
            masked([bytes([byte]) for byte in b"a hunter2, hunter and hunter2"], "hunter2") == b"a ***, hunter and ***"
        )

    def test_the_lines_of_one_that_has_several(self) -> None:
        key = "-----BEGIN-----\nabc123\n}\n-----END-----\n"
        assert masked([key.encode()], key) == b"***\n"
        assert masked([b"only abc123 of it, and }"], key) == b"only *** of it, and }"

    def test_one_that_begins_with_another(self) -> None:
        assert masked([b"token", b"token-long", b" toke"], "token", "token-long") == b"****** toke"

    def test_one_that_is_not_utf8(self) -> None:
        assert masked([b"a\xff\xfe\xfdb"], b"\xff\xfe\xfd".decode("utf-8", "surrogateescape")) == b"a***b"

    def test_what_is_special_in_a_pattern(self) -> None:
        assert masked([b"a.c abc [x]*"], "a.c", "[x]*") == b"*** abc ***"

    @pytest.mark.parametrize(
        "chunks", [[b"xabcdefghiy"], [b"xabcdef", b"ghiy"], [b"xabcdefg", b"h", b"iy"], [b"xabc", b"defghiy"]]
    )
    def test_two_that_overlap(self, chunks: list[bytes]) -> None:
        assert masked(chunks, "abcdef", "defghi") == b"x***y"

    def test_one_that_overlaps_itself(self) -> None:
        assert masked([b"abababac"], "abab") == b"***ac"
        masking = Masking(Secrets(["aaa"]))
        assert b"".join(masking.feed(b"a" * 1000) for _ in range(100)) + masking.feed(b"b") == b"***b"

    @pytest.mark.parametrize("value", ["", "ab", " ab ", "\n\n"])
    def test_what_is_too_short_to_be_one(self, value: str) -> None:
        assert Secrets([value]).values == []

    def test_only_what_may_be_one_is_held_back(self) -> None:
        masking = Masking(Secrets(["hunter2"]))
        assert masking.feed(b"hello hun") == b"hello "
        assert masking.feed(b"d") == b"hund"
        assert masking.feed(b"hunter2") == b"***"

    @given(VALUES, st.lists(st.text(LETTERS, max_size=6)))
    @example(["aba", "abaab"], ["ab", "aab"])
    @example(["abab", "babb"], ["ababab", "abb"])
    def test_every_byte_of_every_one_in_whatever_chunks(self, values: list[str], chunks: list[str]) -> None:
        encoded = [chunk.encode() for chunk in chunks]
        assert masked(encoded, *values) == one_by_one(b"".join(encoded), Secrets(values).values)
