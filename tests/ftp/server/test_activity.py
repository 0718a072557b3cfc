"""What is said of a session that is over, and the line of xferlog."""

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from wsp.ftp.reports import EndedTransfer
from wsp.ftp.server.activity import Activity
from wsp.ftp.server.xferlog import line
from wsp.ftp.sizes import size_text

NOW = datetime(2026, 5, 8, 12, tzinfo=UTC)
TRANSFER = EndedTransfer(
    username="ann_web",
    owner="ann",
    session_id="s",
    address="203.0.113.7",
    tls=True,
    direction="upload",
    path="/a file",
    bytes=3 * 2**20,
    started_at=NOW,
    ended_at=NOW,
    duration_ms=1600,
    reason="",
    checksum="",
    ascii=False,
    anonymous=False,
)
FULL = replace(TRANSFER, reason="The upload was not stored: no space left on device.")


def said(*transfers: EndedTransfer, farewell: str = "", cut: bool = False) -> tuple[bool, str]:
    activity = Activity(NOW)
    for transfer in transfers:
        activity.add(transfer)
    activity.farewell, activity.cut = farewell, cut
    return activity.summary()


class TestSummary:
    def test_of_one_that_did_nothing(self) -> None:
        assert said() == (True, "The session went well: nothing was transferred.")

    def test_of_one_that_was_left_idle(self) -> None:
        assert said(TRANSFER, farewell="Control connection timed out.") == (
            True,
            'The session went well: 1 upload (3.0 MB). The server ended the session: "Control connection timed out."',
        )

    def test_of_one_that_was_cut_while_idle(self) -> None:
        assert said(TRANSFER, farewell="The account is disabled.", cut=True) == (
            False,
            'The server ended the session: "The account is disabled."',
        )

    def test_of_a_failure(self) -> None:
        sentence = "The upload of /a file failed after 3.0 MB: the upload was not stored: no space left on device."
        assert said(FULL) == (False, sentence)
        assert said(FULL, replace(FULL, path="/b")) == (
            False,
            sentence.replace("/a file", "/b") + " 1 other transfer failed too.",
        )

    def test_of_a_failure_that_was_made_good(self) -> None:
        assert said(FULL, TRANSFER) == (True, "The session went well: 1 upload (6.0 MB).")
        assert not said(FULL, replace(TRANSFER, direction="download"))[0]

    def test_remembers_so_many_failures_and_no_more(self) -> None:
        ok, sentence = said(*(replace(FULL, path=f"/{number}") for number in range(250)))
        assert not ok
        assert sentence.endswith("99 other transfers failed too.")


class TestSizeText:
    @pytest.mark.parametrize(
        ("size", "text"),
        [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1.0 KB"),
            (3 * 2**20, "3.0 MB"),
            (2**50, "1024.0 TB"),
        ],
    )
    def test_is_for_people(self, size: int, text: str) -> None:
        assert size_text(size) == text


class TestXferlogLine:
    def test_is_that_of_wu_ftpd(self) -> None:
        assert line(TRANSFER, ZoneInfo("Asia/Bangkok")) == (
            "Fri May  8 19:00:00 2026 2 203.0.113.7 3145728 /a_file b _ i r ann_web ftp 0 * c\n"
        )

    def test_tells_directions_and_results_apart(self) -> None:
        other = replace(FULL, direction="download", ascii=True, anonymous=True, username="anonymous@a.example")
        assert line(other, ZoneInfo("UTC")).split()[9:] == [
            "a", "_", "o", "a", "anonymous@a.example", "ftp", "0", "*", "i"
        ]  # fmt: skip

    def test_nobody_can_forge_another(self) -> None:
        forged = replace(TRANSFER, path="/x\r\nFri May  8\u2028\x1b \x85")
        assert line(forged, ZoneInfo("UTC")).split()[8] == "/x__Fri_May__8____"
