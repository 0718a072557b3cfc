"""Log lines: one a message, in the format that was asked for."""

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator

import pytest

from wsp.logs import QUIET_LOGGERS, ROUTED_LOGGERS, configure_logging
from wsp.settings import load_settings


class Written:
    """What went to standard error since the test began."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """What is logged. Afterwards logging is as it was."""
    names = [None, "py.warnings", *ROUTED_LOGGERS, *QUIET_LOGGERS]
    before = [(logging.getLogger(n), logging.getLogger(n).level, list(logging.getLogger(n).handlers)) for n in names]
    yield Written(capsys)
    logging.captureWarnings(False)
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def configure(**settings: str) -> None:
    configure_logging(load_settings(**{"timezone": "Asia/Bangkok", **settings}), process="ftp")


def log_a_failure() -> None:
    try:
        raise ValueError("a reason")
    except ValueError:
        logging.getLogger("wsp.test").exception("it failed")


class TestText:
    def test_has_time_level_process_and_logger(self, stderr: Written) -> None:
        configure()
        logging.getLogger("wsp.test").warning("hello %s", "there")
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+07:00 WARNING ftp\[\d+\] wsp\.test: hello there\n",
            stderr.getvalue(),
        )

    def test_nobody_can_forge_a_line(self, stderr: Written) -> None:
        configure()
        logging.getLogger("wsp.test").info("login of %s", "x\r\n2026-01-01T00:00:00Z INFO login of admin")
        assert stderr.getvalue().count("\n") == 1

    def test_no_character_moves_the_cursor_or_the_line(self, stderr: Written) -> None:
        configure()
        logging.getLogger("wsp.test").info("login of %s", "\x1b[2J\x85\u2028\u2029\t\x00ä")
        assert stderr.getvalue().endswith("login of \\x1b[2J\\x85\\u2028\\u2029\\t\\x00ä\n")

    def test_nor_does_one_in_a_traceback(self, stderr: Written) -> None:
        configure()
        try:
            raise ValueError("\x1b[2J\r\u2028ä")
        except ValueError:
            logging.getLogger("wsp.test").info("it failed", exc_info=True, stack_info=True)
        text = stderr.getvalue()
        assert "\nValueError: \\x1b[2J\\r\\u2028ä\nStack (most recent call last):\n" in text

    def test_shows_the_traceback(self, stderr: Written) -> None:
        configure()
        log_a_failure()
        assert stderr.getvalue().rstrip().endswith("ValueError: a reason")


class TestJson:
    def test_is_one_object_a_line(self, stderr: Written) -> None:
        configure(log_format="json")
        logging.getLogger("wsp.test").info("größer\nals %d", 1, extra={"account": "admin_deploy"})
        (text,) = stderr.getvalue().splitlines()
        line = json.loads(text)
        assert line.pop("time").endswith("+07:00")
        assert line.pop("pid") > 0
        assert line == {
            "level": "info",
            "process": "ftp",
            "logger": "wsp.test",
            "message": "größer\nals 1",
            "account": "admin_deploy",
        }

    def test_no_character_moves_the_cursor_or_the_line(self, stderr: Written) -> None:
        configure(log_format="json")
        logging.getLogger("wsp.test").info("\x1b\x7f\x85\x9b\u2028\u2029")
        assert r'"\u001b\u007f\u0085\u009b\u2028\u2029"' in stderr.getvalue()

    def test_holds_the_traceback_in_a_field(self, stderr: Written) -> None:
        configure(log_format="json")
        log_a_failure()
        (text,) = stderr.getvalue().splitlines()
        assert json.loads(text)["exception"].endswith("ValueError: a reason")


class TestLevels:
    def test_keeps_what_is_below_quiet(self, stderr: Written) -> None:
        configure(log_level="warning")
        logging.getLogger("wsp.test").info("nothing")
        assert stderr.getvalue() == ""

    @pytest.mark.parametrize("name", QUIET_LOGGERS)
    def test_libraries_chat_in_debug_alone(self, name: str, stderr: Written) -> None:
        configure()
        logging.getLogger(name).info("chatter")
        assert stderr.getvalue() == ""
        configure(log_level="debug")
        logging.getLogger(name).info("chatter")
        assert "chatter" in stderr.getvalue()


class TestOtherPeoplesLoggers:
    @pytest.mark.parametrize("name", ROUTED_LOGGERS)
    def test_write_through_ours(self, name: str, stderr: Written) -> None:
        logging.getLogger(name).addHandler(logging.StreamHandler(io.StringIO()))
        configure()
        logging.getLogger(name).error("trouble")
        assert stderr.getvalue().count("trouble") == 1

    def test_warnings_are_logged(self, stderr: Written) -> None:
        configure()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old ways", stacklevel=1)
        assert "old ways" in stderr.getvalue()
