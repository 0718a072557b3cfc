"""What is kept of a command's output."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsp.cron.output import BoundedOutput


def collect(chunks: list[bytes], limit: int) -> BoundedOutput:
    output = BoundedOutput(limit)
    for chunk in chunks:
        output.add(chunk)
    return output


class TestText:
    def test_all_of_it_when_it_fits(self) -> None:
        output = collect([b"one\n", b"two"], 7)
        assert output.text() == "one\ntwo"
        assert not output.truncated

    def test_head_and_tail_when_it_does_not(self) -> None:
        output = collect([b"HEAD\n", b"x" * 1000, b"\nTAIL"], 10)
        assert output.text() == "HEAD\n… 1000 bytes left out …\n\nTAIL"
        assert output.truncated

    def test_nul_becomes_visible(self) -> None:
        assert collect([b"a\0b"], 10).text() == "a\N{SYMBOL FOR NULL}b"

    def test_what_is_no_text_is_replaced(self) -> None:
        assert collect([b"\xff\xfea"], 10).text() == "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}a"

    def test_a_character_split_between_chunks_is_whole(self) -> None:
        assert collect(["é".encode()[:1], "é".encode()[1:]], 10).text() == "é"

    @pytest.mark.parametrize("limit", range(8, 40))
    def test_a_cut_never_splits_a_character(self, limit: int) -> None:
        assert "\N{REPLACEMENT CHARACTER}" not in collect(["aé€😀".encode() * 50], limit).text()

    @given(st.lists(st.binary(max_size=50)), st.integers(min_value=2, max_value=100))
    def test_kept_and_left_out_add_up(self, chunks: list[bytes], limit: int) -> None:
        whole = b"".join(chunks)
        output = collect(chunks, limit)
        assert output.truncated == (len(whole) > limit)
        assert len(output._head) + len(output._tail) <= 3 * limit
        if not output.truncated:
            assert output.text() == whole.decode(errors="replace").replace("\0", "\N{SYMBOL FOR NULL}")
        else:
            assert "bytes left out" in output.text()
