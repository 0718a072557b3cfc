"""Lines of pure-ftpd's file of virtual users, as accounts and back."""

from pathlib import PurePosixPath
from typing import Any

import pytest

from wsp.database import utc_now
from wsp.ftp.models import FtpAccount
from wsp.ftp.purepw import format_line, parse_line

FILES = PurePosixPath("/srv/wsp/files")
HASH = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"


def line(**fields: str) -> str:
    names = "account password uid gid gecos home up down ratio_up ratio_down max files size local no_local client "
    values = {"account": "joe", "password": HASH, "uid": "1001", "gid": "1001", "home": "/home/ann/joe/./", **fields}
    return ":".join(values.get(name, "") for name in [*names.split(), "no_client", "time"])


def parsed(**fields: str) -> dict[str, Any]:
    entry = parse_line(line(**fields), "ann", FILES)
    assert entry.warnings == []
    return entry.account


def warnings(**fields: str) -> list[str]:
    return parse_line(line(**fields), "ann", FILES).warnings


class TestParse:
    def test_takes_everything_that_has_a_counterpart(self) -> None:
        # As `pure-pw useradd joe -u ftp -d /home/ann/joe -c Joe -T 10 -t 20 -y 3 -N 100 -r 192.0.2.0/24,198.51.100.7`
        fields = {"gecos": "Joe", "up": "10240", "down": "20480", "max": "3", "size": "104857600"}
        assert parsed(**fields, client="192.0.2.0/24,198.51.100.7") == {
            "username": "joe",
            "password_hash": HASH,
            "description": "Joe",
            "home_subdir": "joe",
            "upload_kbps": 10,
            "download_kbps": 20,
            "max_sessions": 3,
            "quota_mb": 100,
            "allowed_ips": ["192.0.2.0/24", "198.51.100.7"],
        }

    def test_leaves_out_what_is_not_set(self) -> None:
        assert parsed(max="0", size="0") == {"username": "joe", "password_hash": HASH, "home_subdir": "joe"}

    def test_does_not_double_the_owner(self) -> None:
        assert parsed(account="ann_joe")["username"] == "joe"
        assert parsed(account="annjoe")["username"] == "annjoe"

    def test_rounds_a_limit_up_so_that_it_stays_one(self) -> None:
        account = parsed(size="1", up="1")
        assert (account["quota_mb"], account["upload_kbps"]) == (1, 1)

    @pytest.mark.parametrize(
        ("home", "subdir"),
        [
            ("/home/ann", None),
            ("/home/ann/./", None),
            ("/home/ann/a/b/./", "a/b"),
            ("/srv/wsp/files/home/ann/a/./", "a"),
            ("/srv/wsp/files/home/ann/./", None),
        ],
    )
    def test_keeps_a_home_of_the_owner(self, home: str, subdir: str | None) -> None:
        assert parsed(home=home).get("home_subdir") == subdir

    @pytest.mark.parametrize(
        ("home", "subdir", "sentence"),
        [
            ("/var/www/site/./", "var/www/site", "its home /var/www/site becomes /home/ann/var/www/site"),
            ("/home/annabel/x", "home/annabel/x", "becomes /home/ann/home/annabel/x"),
            ("/home/ann/a/./b/c", "a", "sessions begin in / instead of /b/c"),
        ],
    )
    def test_says_what_became_of_another_home(self, home: str, subdir: str, sentence: str) -> None:
        entry = parse_line(line(home=home), "ann", FILES)
        assert entry.account["home_subdir"] == subdir
        assert sentence in "; ".join(entry.warnings)

    @pytest.mark.parametrize("field", ["ratio_up", "ratio_down", "files", "local", "no_local", "no_client", "time"])
    def test_says_what_is_not_kept(self, field: str) -> None:
        (warning,) = warnings(**{field: "17"})
        assert "'17' is not kept" in warning
        assert warnings(**{field: ""}) == []

    def test_keeps_the_addresses_among_host_names(self) -> None:
        entry = parse_line(line(client="192.0.2.9/24,example.com"), "ann", FILES)
        assert entry.account["allowed_ips"] == ["192.0.2.0/24"]
        assert "'example.com' is not kept" in entry.warnings[0]

    @pytest.mark.parametrize(
        ("fields", "sentence"),
        [
            ({"client": "example.com"}, "are no addresses"),
            ({"max": "many"}, "max sessions must be a whole number"),
            ({"size": "-1"}, "size quota must be a whole number"),
            ({"up": "1" * 21}, "upload bandwidth must be a whole number"),
            ({"down": "²"}, "download bandwidth must be a whole number"),
            ({"account": ""}, "has no account"),
            ({"password": ""}, "has no password"),
            ({"home": ""}, "has no home"),
            ({"time": "a:b"}, "has 19 fields"),
        ],
    )
    def test_refuses_what_cannot_be_right(self, fields: dict[str, str], sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            parse_line(line(**fields), "ann", FILES)


class TestFormat:
    def account(self, **columns: Any) -> FtpAccount:
        now = utc_now()
        given = {"upload_kbps": 0, "download_kbps": 0, "max_sessions": 0, "quota_mb": 0, "description": ""} | columns
        return FtpAccount(
            **{"allowed_ips": [], "home_dir": "/home/ann/joe"} | given,
            username="ann_joe",
            owner="ann",
            password_hash=HASH,
            created_at=now,
            updated_at=now,
        )

    def test_is_read_back_as_it_was(self) -> None:
        columns = {
            "upload_kbps": 82,
            "download_kbps": 8000,
            "max_sessions": 2,
            "quota_mb": 7,
            "description": "Joe",
            "allowed_ips": ["192.0.2.0/24", "198.51.100.7"],
        }
        entry = format_line(self.account(**columns), FILES)
        assert entry.warnings == []
        again = parse_line(entry.account["line"], "ann", FILES)
        assert again.account == {"username": "joe", "password_hash": HASH, "home_subdir": "joe", **columns}
        assert again.warnings == []

    def test_says_what_it_cannot_say(self) -> None:
        account = self.account(read_only=True, require_tls=True, description="a:b", allowed_ips=["2001:db8::1"])
        entry = format_line(account, FILES)
        assert len(entry.account["line"].split(":")) == 18
        said = "; ".join(entry.warnings)
        for word in ("read_only", "require_tls", "description", "IPv6"):
            assert word in said
