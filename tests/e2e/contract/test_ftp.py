"""The FTP table of the contract, row by row, against a running server."""

import re
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+07:00")
HASH = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"
ANONYMOUS_DEFAULTS = {
    "enabled": False,
    "read_only": False,
    "allow_upload": False,
    "allow_mkdir": False,
    "max_connections": 0,
    "rate_kbps": 0,
    "quota_mb": 0,
    "welcome_message": "",
}
ACCOUNT_KEYS = ["username", "owner", "home_dir", "quota_mb", "read_only", "enabled", "created_at", "updated_at"]


def assert_account(body: dict[str, Any], expected: dict[str, Any], *, added: list[str] | None = None) -> None:
    """The documented keys, all of them and in order, then the added ones; times by their form."""
    assert list(body) == ACCOUNT_KEYS + (added or [])
    assert {name: body[name] for name in expected} == expected
    assert TIME.fullmatch(body["created_at"])
    assert TIME.fullmatch(body["updated_at"])


@pytest.mark.parametrize("slash", ["", "/"])
class TestBothSlashForms:
    def test_list_of_nothing(self, ann: Any, slash: str) -> None:
        answer = ann("GET", f"/ftp{slash}")
        assert (answer.status_code, answer.text) == (200, '{"accounts":[],"total":0}')
        assert answer.headers["content-type"] == "application/json"

    def test_status(self, ann: Any, slash: str) -> None:
        answer = ann("GET", f"/ftp/status{slash}")
        assert (answer.status_code, answer.text) == (200, '{"installed":true,"running":true,"total_accounts":0}')

    def test_create(self, ann: Any, slash: str) -> None:
        answer = ann("POST", f"/ftp{slash}", {"username": "deploy", "password": "S3cure•pass"})
        assert answer.status_code == 201
        assert_account(
            answer.json(),
            {
                "username": f"{ann.username}_deploy",
                "owner": ann.username,
                "home_dir": f"/home/{ann.username}",
                "quota_mb": 0,
                "read_only": False,
                "enabled": True,
            },
        )

    def test_show(self, ann: Any, slash: str) -> None:
        created = ann("POST", "/ftp", {"username": "deploy", "password": "pw"}).json()
        answer = ann("GET", f"/ftp/{created['username']}{slash}")
        assert answer.status_code == 200
        assert list(answer.json()) == [*created, "used_bytes", "file_count"]
        assert answer.json() == created | {"used_bytes": 0, "file_count": 0}

    def test_change(self, ann: Any, slash: str) -> None:
        account = ann("POST", "/ftp", {"username": "deploy", "password": "pw"}).json()
        answer = ann("PUT", f"/ftp/{account['username']}{slash}", {"quota_mb": 5, "read_only": True, "enabled": False})
        assert answer.status_code == 200
        assert_account(answer.json(), {"quota_mb": 5, "read_only": True, "enabled": False})

    def test_restrict(self, ann: Any, slash: str) -> None:
        account = ann("POST", "/ftp", {"username": "deploy", "password": "pw"}).json()
        path = f"/ftp/{account['username']}/ip-restrictions{slash}"
        answer = ann("PUT", path, {"allowed_ips": ["203.0.113.0/24", "::ffff:198.51.100.0/120"]})
        assert answer.status_code == 200
        assert_account(answer.json(), {"allowed_ips": ["203.0.113.0/24", "198.51.100.0/24"]}, added=["allowed_ips"])
        assert ann("GET", f"/ftp/{account['username']}").json()["allowed_ips"] == ["203.0.113.0/24", "198.51.100.0/24"]
        lifted = ann("PUT", path, {"allowed_ips": []})
        assert_account(lifted.json(), {"allowed_ips": []}, added=["allowed_ips"])
        assert_account(ann("GET", f"/ftp/{account['username']}").json(), {}, added=["used_bytes", "file_count"])

    def test_toggle(self, ann: Any, slash: str) -> None:
        account = ann("POST", "/ftp", {"username": "deploy", "password": "pw"}).json()
        path = f"/ftp/{account['username']}/toggle{slash}"
        assert_account(ann("POST", path).json(), {"enabled": False})
        assert_account(ann("POST", path).json(), {"enabled": True})

    def test_delete(self, ann: Any, slash: str) -> None:
        account = ann("POST", "/ftp", {"username": "deploy", "password": "pw"}).json()
        answer = ann("DELETE", f"/ftp/{account['username']}{slash}")
        assert (answer.status_code, answer.text) == (200, '{"message":"FTP account deleted successfully"}')
        assert ann("GET", f"/ftp/{account['username']}").status_code == 404
        assert ann("DELETE", f"/ftp/{account['username']}").status_code == 404

    def test_anonymous_never_configured(self, ann: Any, slash: str) -> None:
        answer = ann("GET", f"/ftp/{ann.username}.example/anonymous{slash}")
        assert answer.status_code == 200
        assert answer.json() == {
            "domain": f"{ann.username}.example",
            "owner": ann.username,
            "home_dir": f"/home/{ann.username}/{ann.username}.example",
            **ANONYMOUS_DEFAULTS,
        }
        assert list(answer.json()) == ["domain", "owner", "home_dir", *ANONYMOUS_DEFAULTS]

    def test_anonymous_changed(self, ann: Any, slash: str) -> None:
        path = f"/ftp/{ann.username}.example/anonymous{slash}"
        assert ann("PUT", path, {"enabled": True}).json()["enabled"] is True
        fields = {
            "read_only": True,
            "allow_upload": True,
            "allow_mkdir": True,
            "max_connections": 20,
            "rate_kbps": 4000,
            "quota_mb": 100,
            "welcome_message": "Hello.\nLeave files in /incoming.",
        }
        changed = ann("PUT", path, fields).json()
        assert changed == ann("GET", path).json()
        assert {name: changed[name] for name in fields} == fields
        assert changed["enabled"] is True
        assert ann("PUT", path, {"welcome_message": "a\r\nb"}).json()["welcome_message"] == "a\nb"


class TestCreate:
    def test_checks_the_name_before_the_password(self, ann: Any) -> None:
        for body in ({}, {"username": "a"}, {"username": ""}, {"password": "pw"}):
            answer = ann("POST", "/ftp/", body)
            assert answer.status_code == 400
            assert answer.json()["error"] == "Username must be at least 2 characters"

    def test_an_empty_request_is_an_empty_body(self, ann: Any) -> None:
        answer = ann("POST", "/ftp/")
        assert (answer.status_code, answer.json()["error"]) == (400, "Username must be at least 2 characters")

    def test_then_asks_for_the_password(self, ann: Any) -> None:
        for body in ({"username": "deploy"}, {"username": "deploy", "password": ""}):
            answer = ann("POST", "/ftp/", body)
            assert (answer.status_code, answer.json()["error"]) == (400, "Password is required")

    def test_a_name_in_use_is_a_conflict(self, ann: Any) -> None:
        body = {"username": "deploy", "password": "pw"}
        assert ann("POST", "/ftp/", body).status_code == 201
        answer = ann("POST", "/ftp/", body)
        assert (answer.status_code, answer.json()["code"]) == (409, "CONFLICT")

    def test_takes_every_field_that_a_change_takes(self, ann: Any) -> None:
        fields = {
            "domain": "example.com",
            "quota_mb": 7,
            "read_only": True,
            "enabled": False,
            "allowed_ips": ["192.0.2.1"],
            "require_tls": True,
            "expires_at": "2030-01-31T12:00:00+07:00",
            "max_sessions": 4,
            "upload_kbps": 1000,
            "download_kbps": 2000,
            "permissions": [{"folder": "/", "allow": ["list", "read"]}, {"folder": "/in", "allow": ["write"]}],
            "home_subdir": "sites/blog",
            "description": "CI of the shop",
        }
        created = ann("POST", "/ftp/", {"username": "deploy", "password": "pw", **fields}).json()
        assert_account(created, fields, added=[name for name in fields if name not in ACCOUNT_KEYS])
        assert created["home_dir"] == f"/home/{ann.username}/example.com/sites/blog"
        plain = ann("POST", "/ftp/", {"username": "plain", "password": "pw"}).json()
        changed = ann("PUT", f"/ftp/{plain['username']}", {"password": "pw2", **fields})
        assert changed.status_code == 200
        assert [*changed.json().items()][3:6] == [*created.items()][3:6]
        assert {name: changed.json()[name] for name in fields} == fields
        listed = ann("GET", "/ftp/").json()["accounts"]
        assert listed == [created, changed.json()]
        shown = ann("GET", f"/ftp/{created['username']}").json()
        assert [*shown.items()] == [*created.items(), ("used_bytes", 0), ("file_count", 0)]
        lifted = {
            "allowed_ips": [],
            "domain": "",
            "require_tls": False,
            "expires_at": None,
            "max_sessions": 0,
            "upload_kbps": 0,
            "download_kbps": 0,
            "permissions": [],
            "home_subdir": "",
            "description": "",
        }
        assert_account(ann("PUT", f"/ftp/{plain['username']}", lifted).json(), {"home_dir": f"/home/{ann.username}"})

    def test_takes_the_hash_of_a_password_instead_of_it(self, ann: Any) -> None:
        answer = ann("POST", "/ftp/", {"username": "deploy", "password_hash": HASH})
        assert answer.status_code == 201
        assert_account(answer.json(), {})
        assert ann("PUT", f"/ftp/{answer.json()['username']}", {"password_hash": HASH}).status_code == 200
        both = ann("POST", "/ftp/", {"username": "deploy2", "password": "pw", "password_hash": HASH})
        assert both.status_code == 400
        assert both.json()["error"] == "Password hash cannot be given together with a password"

    def test_says_which_formats_of_hashes_there_are(self, ann: Any) -> None:
        answer = ann("POST", "/ftp/", {"username": "deploy", "password_hash": "x"})
        assert answer.status_code == 400
        for name in ("argon2", "$2y$", "$5$", "$6$", "$1$", "$apr1$", "pbkdf2"):
            assert name in answer.json()["error"]

    def test_a_user_cannot_create_for_somebody_else(self, ann: Any) -> None:
        answer = ann("POST", "/ftp/", {"username": "deploy", "password": "pw", "owner": "admin"})
        assert (answer.status_code, answer.json()["error"]) == (403, "Only an admin may set the owner")

    def test_an_admin_creates_for_anyone(self, admin: Any, ann: Any) -> None:
        created = admin("POST", "/ftp/", {"username": "deploy", "password": "pw", "owner": ann.username}).json()
        assert created["owner"] == ann.username
        assert ann("GET", f"/ftp/{ann.username}_deploy").status_code == 200

    def test_an_owner_nobody_knows_is_refused(self, admin: Any) -> None:
        answer = admin("POST", "/ftp/", {"username": "deploy", "password": "pw", "owner": "nobody-knows"})
        assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "owner")


class TestChange:
    def test_changes_only_what_it_names(self, ann: Any) -> None:
        account = ann("POST", "/ftp/", {"username": "deploy", "password": "pw", "quota_mb": 3}).json()
        changed = ann("PUT", f"/ftp/{account['username']}", {"read_only": True}).json()
        assert {**changed, "updated_at": ""} == {**account, "read_only": True, "updated_at": ""}
        untouched = ann("PUT", f"/ftp/{account['username']}", {}).json()
        assert {**untouched, "updated_at": ""} == {**changed, "updated_at": ""}

    def test_a_new_domain_moves_the_home(self, ann: Any) -> None:
        account = ann("POST", "/ftp/", {"username": "deploy", "password": "pw"}).json()
        changed = ann("PUT", f"/ftp/{account['username']}", {"domain": "Example.COM"}).json()
        assert changed["home_dir"] == f"/home/{ann.username}/example.com"
        back = ann("PUT", f"/ftp/{account['username']}", {"domain": ""}).json()
        assert_account(back, {"home_dir": f"/home/{ann.username}"})

    def test_the_folder_moves_the_home_below_that_of_the_domain(self, ann: Any) -> None:
        account = ann("POST", "/ftp/", {"username": "deploy", "password": "pw", "home_subdir": "blog"}).json()
        assert account["home_dir"] == f"/home/{ann.username}/blog"
        changed = ann("PUT", f"/ftp/{account['username']}", {"domain": "example.com"}).json()
        assert changed["home_dir"] == f"/home/{ann.username}/example.com/blog"
        changed = ann("PUT", f"/ftp/{account['username']}", {"home_subdir": "a/ö b"}).json()
        assert changed["home_dir"] == f"/home/{ann.username}/example.com/a/ö b"

    def test_an_expiry_is_shown_in_the_zone_of_the_server(self, ann: Any) -> None:
        account = ann("POST", "/ftp/", {"username": "deploy", "password": "pw"}).json()
        for given, shown in (
            ("2030-01-31T00:00:00Z", "2030-01-31T07:00:00+07:00"),
            ("2030-01-31t00:00:00.999z", "2030-01-31T07:00:00+07:00"),
            ("2030-01-30T20:00:00-04:00", "2030-01-31T07:00:00+07:00"),
            ("1999-01-01T00:00:00+00:00", "1999-01-01T07:00:00+07:00"),  # it is over at once
        ):
            assert ann("PUT", f"/ftp/{account['username']}", {"expires_at": given}).json()["expires_at"] == shown

    def test_null_is_no_value(self, ann: Any) -> None:
        account = ann("POST", "/ftp/", {"username": "deploy", "password": "pw"}).json()
        answer = ann("PUT", f"/ftp/{account['username']}", {"quota_mb": None})
        assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "quota_mb")


class TestAnonymous:
    def test_a_domain_belongs_to_who_configured_it_first(self, admin: Any, ann: Any, make_caller: Any) -> None:
        bob = make_caller()
        path = f"/ftp/{ann.username}.example/anonymous"
        assert ann("PUT", path, {"enabled": True}).status_code == 200
        assert bob("GET", path).status_code == 404
        assert bob("PUT", path, {"enabled": False}).status_code == 404
        assert admin("GET", path).json()["owner"] == ann.username

    def test_the_owner_is_checked_and_kept(self, admin: Any, ann: Any) -> None:
        path = f"/ftp/{ann.username}.example/anonymous"
        assert admin("PUT", path, {"owner": "nobody-knows"}).status_code == 400
        assert admin("GET", path).json()["owner"] == "admin"
        assert admin("PUT", path, {"owner": ann.username}).json()["owner"] == ann.username
        assert ann("PUT", path, {"enabled": True}).json()["owner"] == ann.username
        assert ann("PUT", path, {"owner": "admin"}).status_code == 403

    def test_changing_nothing_claims_nothing(self, ann: Any, make_caller: Any) -> None:
        bob = make_caller()
        path = f"/ftp/{ann.username}.example/anonymous"
        assert bob("PUT", path, {}).status_code == 200
        assert ann("PUT", path, {"enabled": True}).json()["owner"] == ann.username
