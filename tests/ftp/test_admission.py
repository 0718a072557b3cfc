"""The decision who may log in."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from wsp.ftp.admission import Denied, Policy, Reason, denial, session_limit
from wsp.ftp.logins import Login

NOW = datetime(2026, 5, 18, 12, tzinfo=UTC)
LOGIN = Login(
    username="ann_web",
    owner="ann",
    home_dir="/home/ann",
    password_hash="",
    read_only=False,
    enabled=True,
    allowed_ips=(),
)


def asked(login: Login, *, tls: bool = False, policy: Policy | None = None, sessions: int = 0) -> Denied | None:
    return denial(login, "203.0.113.7", tls=tls, now=NOW, policy=policy or Policy(), sessions=sessions)


class TestDenial:
    def test_an_ordinary_account_is_let_in(self) -> None:
        assert asked(LOGIN) is None

    @pytest.mark.parametrize(
        ("changes", "reason", "sentence"),
        [
            ({"enabled": False}, Reason.DISABLED, "The account is disabled."),
            (
                {"enabled": False, "owner_active": False},
                Reason.OWNER_DISABLED,
                "The user ann, who owns the account, is not active.",
            ),
            ({"expires_at": NOW}, Reason.EXPIRED, "The account expired at 2026-05-18 12:00:00+00:00."),
            (
                {"allowed_ips": ("198.51.100.0/24",)},
                Reason.ADDRESS_NOT_ALLOWED,
                "The address 203.0.113.7 is not one that the account allows.",
            ),
            (
                {"require_tls": True},
                Reason.TLS_REQUIRED,
                "The account needs TLS, and this is a login in clear text.",
            ),
        ],
    )
    def test_each_reason_has_its_sentence(self, changes: dict[str, object], reason: Reason, sentence: str) -> None:
        assert asked(replace(LOGIN, **changes)) == Denied(reason, sentence)  # type: ignore[arg-type]

    def test_what_does_not_apply_denies_nothing(self) -> None:
        login = replace(LOGIN, expires_at=NOW + timedelta(seconds=1), allowed_ips=("203.0.113.0/24",), require_tls=True)
        assert asked(login, tls=True) is None

    def test_the_server_can_ask_for_tls_as_well(self) -> None:
        assert asked(LOGIN, policy=Policy(require_tls=True)) == Denied(
            Reason.TLS_REQUIRED, "The server needs TLS, and this is a login in clear text."
        )
        assert asked(LOGIN, tls=True, policy=Policy(require_tls=True)) is None

    def test_one_session_too_many(self) -> None:
        login = replace(LOGIN, max_sessions=2)
        assert asked(login, sessions=1) is None
        assert asked(login, sessions=2) == Denied(
            Reason.TOO_MANY_SESSIONS, "The account has the 2 sessions that it may have at once."
        )


class TestSessionLimit:
    @pytest.mark.parametrize(
        ("own", "servers", "anonymous", "limit"),
        [(0, 0, False, 0), (3, 0, False, 3), (0, 5, False, 5), (3, 5, False, 3), (7, 5, False, 5), (7, 5, True, 7)],
    )
    def test_the_lower_one_counts(self, own: int, servers: int, anonymous: bool, limit: int) -> None:
        login = replace(LOGIN, max_sessions=own, anonymous=anonymous)
        assert session_limit(login, Policy(max_sessions_per_account=servers)) == limit
