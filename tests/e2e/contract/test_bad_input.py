"""Bad input for every field of every body: 4xx in the fixed shape that names the field, and nothing written."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import func, select

from wsp.database import Base, Database
from wsp.tables import metadata

pytestmark = pytest.mark.e2e

WRONG_TYPES: dict[str, list[Any]] = {
    "string": [5, True, None, [], {}, 1.5],
    "string or null": [5, True, [], {}, 1.5],
    "integer": ["5", 1.5, True, None, [], {}],
    "number": ["5", True, None, [], {}],
    "choice": [5, True, None, [], {}, 1.5, "", "other", "SKIP"],
    "object": ["A=1", 5, True, None, []],
    "boolean": ["yes", 1, 0, None, [], {}],
    "list": ["192.0.2.1", 5, None, {}, [5], [None], [["192.0.2.1"]]],
}

BEYOND_64_BITS = 2**63
# body of a valid request, then for each field: its type, and values of that type that are wrong
FTP_CREATE = {"username": "deploy", "password": "pw"}
FTP_FIELDS: dict[str, tuple[str, list[Any]]] = {
    "password": ("string", ["", "a\0b", "a\r\nb", "x" * 257]),
    "domain": (
        "string",
        [
            "..",
            "../etc",
            "a/b",
            "a\\b",
            "/etc",
            "a..b",
            ".a",
            "a.",
            "-a.example",
            "a b",
            "a\0b",
            "x" * 254,
            "exämple.com",
        ],
    ),
    "quota_mb": ("integer", [-1, 2**63, 10**30]),
    "read_only": ("boolean", []),
    "enabled": ("boolean", []),
    "allowed_ips": (
        "list",
        [
            ["nonsense"],
            ["1.2.3"],
            ["1.2.3.4/33"],
            ["1.2.3.4/24"],
            ["1.2.3.4\0"],
            [""],
            ["192.0.2.1"] * 1001,
            ["x" * 10**5],
            ["fe80::1%eth0"],
        ],
    ),
    "require_tls": ("boolean", []),
    "expires_at": (
        "string or null",
        [
            "",
            "tomorrow",
            "2027-01-31",
            "2027-01-31T00:00:00",
            "2027-01-31 00:00:00Z",
            "2027-02-30T00:00:00Z",
            "2027-01-31T24:00:01Z",
            "2027-01-31T00:00:00+25:00",
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-14:00",
            "٢٠٢٧-01-31T00:00:00Z",
        ],
    ),
    "max_sessions": ("integer", [-1, BEYOND_64_BITS, 2**20 + 1]),
    "upload_kbps": ("integer", [-1, BEYOND_64_BITS, 2**30 + 1]),
    "download_kbps": ("integer", [-1, BEYOND_64_BITS, 2**30 + 1]),
    "permissions": (
        "list",
        [
            ["/"],
            [{}],
            [{"folder": "/"}],
            [{"allow": ["list"]}],
            [{"folder": "/", "allow": "list"}],
            [{"folder": "/", "allow": ["execute"]}],
            [{"folder": "/", "allow": [["list"]]}],
            [{"folder": "/", "allow": [], "deny": []}],
            [{"folder": 5, "allow": []}],
            [{"folder": folder, "allow": []} for folder in ("/a", "/b", "/a")],
            *([{"folder": f, "allow": []}] for f in ("", "a", "/a/", "//a", "/a//b", "/./a", "/..", "/a/../b", "/a\0")),
            *([{"folder": f, "allow": []}] for f in ("/.wsp-x", "/a/.wsp-upload-1", "/" + "a" * 256, "/a" * 501)),
            [{"folder": f"/{n}", "allow": []} for n in range(101)],
        ],
    ),
    "home_subdir": (
        "string",
        [
            "a/" * 127 + "bcd",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/..",
            "../a",
            "a/./b",
            "a\0b",
            "a\nb",
            ".wsp-x",
            "a/.wsp-x",
            "ä" * 128,
        ],
    ),
    "description": ("string", ["a\0b", "a\nb", "x" * 201]),
}
SECRET_FIELDS: dict[str, tuple[str, list[Any]]] = {
    "password_hash": (
        "string",
        [
            "",
            "plain text",
            "*",
            "!",
            "x" * 256,
            "{SSHA}c2FsdA==",
            "$2x$05$pnKxOSaupiG4o.yYEsdE..x802DO//Rp3kdV4EKNWHLaQ8zAKAh0.",  # crypt_blowfish's buggy ones
            "$2b$05$tooshort",
            "$1$salt$",
            "$1$salt$qJH7.N4xYta3aEG/dfqo/0\n",
            "$6$rounds=999999999$salt$" + "a" * 86,  # hours
            "$5$rounds=1000001$salt$" + "a" * 43,
            "$2b$31$pnKxOSaupiG4o.yYEsdE..x802DO//Rp3kdV4EKNWHLaQ8zAKAh0.",  # weeks
            "$pbkdf2-sha256$99999999$c2FsdHNhbHQ$" + "a" * 43,
            "$argon2id$v=19$m=4194304,t=1,p=1$c29tZXNhbHQ$RdescudvJCsgt3ub+b2dWRJJTmaaJObG",  # 4 GiB
            "$argon2id$v=19$m=65536,t=1000,p=1$c29tZXNhbHQ$RdescudvJCsgt3ub+b2dWRJJTmaaJObG",
        ],
    ),
}
ANONYMOUS_FIELDS: dict[str, tuple[str, list[Any]]] = {
    "enabled": ("boolean", []),
    "read_only": ("boolean", []),
    "allow_upload": ("boolean", []),
    "allow_mkdir": ("boolean", []),
    "max_connections": ("integer", [-1, BEYOND_64_BITS, 2**20 + 1]),
    "rate_kbps": ("integer", [-1, BEYOND_64_BITS, 2**30 + 1]),
    "quota_mb": ("integer", [-1, BEYOND_64_BITS, 10**30]),
    "welcome_message": ("string", ["a\0b", "a\rb", "a\x1bb", "x" * 2001]),
}
NAME_FIELD: dict[str, tuple[str, list[Any]]] = {
    "username": (
        "string",
        ["", "a", "x" * 33, "a/b", "../x", "a b", "a\0b", "a\nb", "ä" * 5, "a\\b", "a;b", "%2e%2e", "a\u202eb"],
    ),
}
WRONG_VARIABLES: list[Any] = [
    *(5, True, None, 1.5, [], ["x"], {}),
    *({"value": 5}, {"value": None}, {"value": None, "secret": True}, {"value": "x", "other": 1}),
    *({"value": "x", "secret": 1}, {"value": "x", "secret": None}, {"secret": False}),
    *({"secret": True}, {"value": "", "secret": True}),
]
CRON_CREATE = {"command": "true", "name": "nightly", "cron_expr": "0 3 * * *"}
CRON_FIELDS: dict[str, tuple[str, list[Any]]] = {
    "command": ("string", ["", "  ", "a\0b", "x" * 8193]),
    "name": ("string", ["", "  ", "a\0b", "a\nb", "x" * 101]),
    "cron_expr": (
        "string",
        [
            "",
            "x",
            "* * * *",
            "* * * * * 60",
            "* * * * * * *",
            "60 * * * *",
            "0 0 31 2 *",
            "* * * * *\0",
            "@boot",
            "9" * 500,
        ],
    ),
    "domain": FTP_FIELDS["domain"],
    "enabled": ("boolean", []),
    "email_on_complete": (
        "string",
        ["nobody", "a@", "@b", "a@b\nBcc: c@d", "a@b, c@d", "x" * 300 + "@b.example", "a\0@b.example"],
    ),
    "email_on_error": ("boolean", []),
    "timezone": ("string", ["Berlin", "Europe/Nowhere", "UTC+7", "../etc/passwd", "/etc/localtime", "a\0b", "x" * 65]),
    "description": ("string", ["a\0b", "a\x1bb", "x" * 2001]),
    "tags": (
        "list",
        [[""], ["a b"], ["a,b"], ["ä"], ["a\n"], ["x" * 65], [f"t{number}" for number in range(21)]],
    ),
    "after": (
        "list",
        [
            [3],
            [{}],
            [{"on": "any"}],
            [{"job_id": "3"}],
            [{"job_id": 0}],
            [{"job_id": -1}],
            [{"job_id": True}],
            [{"job_id": BEYOND_64_BITS}],
            [{"job_id": BEYOND_64_BITS - 1}],
            [{"job_id": BEYOND_64_BITS - 1, "on": "success"}] * 2,
            [{"job_id": 3, "on": "maybe"}],
            [{"job_id": 3, "on": None}],
            [{"job_id": 3, "on": "any", "surprise": 1}],
            [{"job_id": number + 1} for number in range(21)],
        ],
    ),
    "overlap": ("choice", []),
    "timeout_seconds": ("integer", [-1, 31_622_401, BEYOND_64_BITS, 10**30]),
    "kill_grace_seconds": ("integer", [-1, 3601, BEYOND_64_BITS]),
    "retries": ("integer", [-1, 101, BEYOND_64_BITS]),
    "retry_delay_seconds": ("integer", [-1, 604_801, BEYOND_64_BITS]),
    "retry_backoff": ("number", [0, 0.99, -1, 10.1, 1e300]),
    "missed": ("choice", []),
    "start_deadline_seconds": ("integer", [-1, 31_622_401, BEYOND_64_BITS]),
    "jitter_seconds": ("integer", [-1, 86_401, BEYOND_64_BITS]),
    "on_lost": ("choice", []),
    "max_output_bytes": ("integer", [-1, 1, 1023, 2**24 + 1, BEYOND_64_BITS]),
    "keep_runs": ("integer", [-1, 1_000_001, BEYOND_64_BITS]),
    "keep_days": ("integer", [-1, 36_501, BEYOND_64_BITS]),
    "env": (
        "object",
        [
            {"": "x"},
            {"1A": "x"},
            {"A-B": "x"},
            {"A B": "x"},
            {"A=B": "x"},
            {"A\0": "x"},
            {"A\n": "x"},
            {"Ä": "x"},
            {"A" * 129: "x"},
            {"WSP_RUN_ID": "x"},
            {"A": "a\0b"},
            *({"A": value} for value in WRONG_VARIABLES),
            {"A": {"value": "ab", "secret": True}},
            {"A": "x" * 32_768},
            {"A": "ä" * 16_384},
            {f"A{number}": "" for number in range(201)},
        ],
    ),
    "working_dir": (
        "string",
        ["..", "a/..", "../a", "a/../../b", "/", "/etc", "/home", "/home/somebody", "a\0b", "a\nb", "x" * 1001],
    ),
    "stdin": ("string", ["a\0b", "x" * 65_537]),
    "shell": (
        "string",
        ["sh", "bin/sh", "./sh", "/", "/bin/", "/bin/sh -e", "/bin/s\0h", "/bin/sh\n", "/" + "x" * 255],
    ),
    "memory_mb": ("integer", [-1, 2**24 + 1, BEYOND_64_BITS]),
    "cpu_seconds": ("integer", [-1, 31_622_401, BEYOND_64_BITS]),
    "max_processes": ("integer", [-1, 2**20 + 1, BEYOND_64_BITS]),
    "nice": ("integer", [-21, 20, BEYOND_64_BITS, -BEYOND_64_BITS]),
    "alert_on": ("list", [["always"], [""], ["first_failure", 5], ["recovery"] * 21]),
    "alert_every": ("integer", [-1, 0, 10_001, BEYOND_64_BITS]),
    "expect_every": ("integer", [-1, 1, 59, 31_622_401, BEYOND_64_BITS]),
    "grace_seconds": ("integer", [-1, 31_622_401, BEYOND_64_BITS]),
    "alert_duration_factor": ("number", [-1, 0.5, 1, 1.0, 1000.5, 1e300]),
}
PAUSE_FIELDS: dict[str, tuple[str, list[Any]]] = {
    "reason": ("string", ["a\0b", "a\nb", "x" * 201]),
    "until": ("string or null", [*FTP_FIELDS["expires_at"][1], "2020-01-31T00:00:00Z"]),
}
ONCE = {"starts_at": "2999-01-31T00:00:00Z", "ends_at": "2999-01-31T02:00:00+01:00"}
AGAIN = {"cron_expr": "0 22 * * sun", "duration_seconds": 60}
WINDOW_FIELDS: dict[str, tuple[str, list[Any]]] = {
    "reason": PAUSE_FIELDS["reason"],
    "tag": ("string", ["", "a b", "a,b", "ä", "x" * 65]),
    "timezone": CRON_FIELDS["timezone"],
}
ONCE_FIELDS: dict[str, tuple[str, list[Any]]] = {
    "starts_at": ("string", FTP_FIELDS["expires_at"][1]),
    "ends_at": (
        "string",
        [*FTP_FIELDS["expires_at"][1], ONCE["starts_at"], "2998-01-31T00:00:00Z", "2020-01-31T00:00:00Z"],
    ),
}
AGAIN_FIELDS: dict[str, tuple[str, list[Any]]] = {
    "cron_expr": ("string", ["", " ", "x", "60 * * * *", "@reboot", "9" * 500]),
    "duration_seconds": ("integer", [-1, 0, 31 * 86_400 + 1, BEYOND_64_BITS]),
}
OWNER_FIELD: dict[str, tuple[str, list[Any]]] = {"owner": ("string", ["nobody-knows", "../admin", "a\0b", "x" * 33])}
KEY_CREATE = {"name": "x"}
KEY_FIELDS: dict[str, tuple[str, list[Any]]] = {
    "name": ("string", ["", "  ", "a\0b", "x" * 101]),
    "permissions": ("list", [[], ["root"], ["ftp", "x"], ["FTP"]]),
    "ip_whitelist": FTP_FIELDS["allowed_ips"],
    "expires_in": ("integer", [-1, 36501, 10**30]),
}


def bodies(valid: dict[str, Any], fields: dict[str, tuple[str, list[Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(field, body) for every way in which one field is wrong."""
    for field, (kind, wrong) in fields.items():
        for value in WRONG_TYPES[kind] + wrong:
            yield field, {**valid, field: value}


def count_rows(database: Database) -> dict[str, int]:
    """How many rows each table has, but for those that the services write by themselves."""
    tables: list[Any] = [t for t in metadata.sorted_tables if t.name not in ("services", "cron_runs")]
    assert Base.metadata is metadata
    with database.reading() as session:
        return {table.name: session.scalar(select(func.count()).select_from(table)) or 0 for table in tables}


def assert_refused(answer: Any, field: str | None, sent: object) -> None:
    """A 4xx in the fixed shape that names the field."""
    body = answer.json()
    where = f"{json.dumps(sent)[:200]} -> {answer.text[:300]}"
    assert answer.status_code == 400, where
    assert list(body)[:5] == ["success", "code", "error", "message", "status"], where
    assert body["code"] == "VALIDATION_ERROR"
    assert body["error"] == body["message"]
    if field is not None:
        assert field in [detail["field"] for detail in body["details"]], where


class TestFields:
    @pytest.mark.parametrize("owner_given", [False, True])
    def test_of_a_new_ftp_account(self, ann: Any, admin: Any, store_of_server: Database, owner_given: bool) -> None:
        caller, fields = (admin, OWNER_FIELD) if owner_given else (ann, NAME_FIELD | FTP_FIELDS)
        before = count_rows(store_of_server)
        for field, body in bodies(FTP_CREATE, fields):
            assert_refused(caller("POST", "/ftp/", body), field, body)
        for field, body in bodies({"username": "deploy"}, SECRET_FIELDS):
            assert_refused(caller("POST", "/ftp/", body), field, body)
        assert count_rows(store_of_server) == before

    def test_of_a_changed_ftp_account(self, ann: Any) -> None:
        account = ann("POST", "/ftp/", FTP_CREATE).json()
        path = f"/ftp/{account['username']}"
        for field, body in bodies({}, FTP_FIELDS | SECRET_FIELDS):
            assert_refused(ann("PUT", path, body), field, body)
        for field, body in bodies({}, {"allowed_ips": FTP_FIELDS["allowed_ips"]}):
            assert_refused(ann("PUT", f"{path}/ip-restrictions", body), field, body)
        assert_refused(ann("PUT", f"{path}/ip-restrictions", {}), "allowed_ips", {})
        assert ann("GET", path).json() == account | {"used_bytes": 0, "file_count": 0}

    def test_of_anonymous_access(self, ann: Any) -> None:
        path = f"/ftp/{ann.username}.example/anonymous"
        before = ann("GET", path).json()
        for field, body in bodies({}, ANONYMOUS_FIELDS):
            assert_refused(ann("PUT", path, body), field, body)
        assert ann("GET", path).json() == before

    @pytest.mark.parametrize("domain", ["..", "a..b", "-a", "a%00b", "a%20b", "exa%CC%88mple", "x" * 254, "%2e%2e"])
    def test_of_a_domain_in_the_path(self, ann: Any, domain: str) -> None:
        answer = ann("PUT", f"/ftp/{domain}/anonymous", {"enabled": True})
        assert answer.status_code in (400, 404, 405)
        assert answer.json()["success"] is False

    @pytest.mark.parametrize("owner_given", [False, True])
    def test_of_a_new_cron_job(self, ann: Any, admin: Any, store_of_server: Database, owner_given: bool) -> None:
        caller, fields = (admin, OWNER_FIELD) if owner_given else (ann, CRON_FIELDS)
        before = count_rows(store_of_server)
        for field, body in bodies(CRON_CREATE, fields):
            assert_refused(caller("POST", "/cronjobs/", body), field, body)
        assert count_rows(store_of_server) == before

    def test_of_a_changed_cron_job(self, ann: Any) -> None:
        job = ann("POST", "/cronjobs/", CRON_CREATE | {"enabled": False}).json()
        for field, body in bodies({}, CRON_FIELDS):
            assert_refused(ann("PUT", f"/cronjobs/{job['id']}", body), field, body)
        assert ann("GET", f"/cronjobs/{job['id']}").json() == job

    def test_of_a_policy_that_is_no_finite_number(self, ann: Any) -> None:
        for field in ("retry_backoff", "alert_duration_factor"):
            for value in (float("nan"), float("inf"), -float("inf")):
                content = json.dumps(CRON_CREATE | {field: value})
                answer = ann("POST", "/cronjobs/", content=content, headers={"Content-Type": "application/json"})
                assert_refused(answer, field, content)

    def test_of_a_pause(self, ann: Any, admin: Any) -> None:
        for field, body in bodies({}, PAUSE_FIELDS):
            assert_refused(ann("POST", "/cronjobs/pause", body), field, body)
        for field, body in bodies({}, OWNER_FIELD):
            assert_refused(admin("POST", "/cronjobs/pause", body), field, body)
            assert_refused(admin("POST", "/cronjobs/resume", body), field, body)
        assert_refused(admin("GET", "/cronjobs/pause?owner=nobody-knows"), "owner", None)
        assert ann("GET", "/cronjobs/pause").json()["paused"] is False

    def test_of_a_maintenance_window(self, ann: Any, admin: Any, store_of_server: Database) -> None:
        before = count_rows(store_of_server)
        for valid, fields in ((ONCE, WINDOW_FIELDS | ONCE_FIELDS), (AGAIN, WINDOW_FIELDS | AGAIN_FIELDS)):
            for field, body in bodies(valid, fields):
                assert_refused(ann("POST", "/cronjobs/maintenance", body), field, body)
            for field in valid:
                body = {name: value for name, value in valid.items() if name != field}
                assert_refused(ann("POST", "/cronjobs/maintenance", body), field, body)
        for field, body in bodies(AGAIN, OWNER_FIELD):
            assert_refused(admin("POST", "/cronjobs/maintenance", body), field, body)
        for body in ({}, ONCE | AGAIN, ONCE | {"cron_expr": "0 22 * * sun"}, AGAIN | {"ends_at": ONCE["ends_at"]}):
            assert_refused(ann("POST", "/cronjobs/maintenance", body), "starts_at", body)
        assert_refused(ann("POST", "/cronjobs/maintenance", ONCE | {"timezone": "Asia/Tokyo"}), "timezone", ONCE)
        assert count_rows(store_of_server) == before

    @pytest.mark.parametrize("query", ["tag=a%20b", "tag=", "tag=%C3%A4", "enabled=", "enabled=perhaps", "limit=0"])
    def test_of_the_filters_of_a_list(self, ann: Any, query: str) -> None:
        assert_refused(ann("GET", f"/cronjobs/?{query}"), query.split("=")[0], query)

    def test_of_a_new_api_key(self, ann: Any, store_of_server: Database) -> None:
        before = count_rows(store_of_server)
        for field, body in bodies(KEY_CREATE, KEY_FIELDS):
            assert_refused(ann("POST", f"/users/{ann.username}/api-keys", body), field, body)
        assert count_rows(store_of_server) == before


class TestBodies:
    @pytest.fixture
    def operations(self, ann: Any) -> list[tuple[str, str]]:
        """Every operation with a body, on things that exist."""
        account = ann("POST", "/ftp/", FTP_CREATE).json()["username"]
        job = ann("POST", "/cronjobs/", CRON_CREATE).json()["id"]
        return [
            ("POST", "/ftp/"),
            ("PUT", f"/ftp/{account}"),
            ("PUT", f"/ftp/{account}/ip-restrictions"),
            ("PUT", f"/ftp/{ann.username}.example/anonymous"),
            ("POST", "/cronjobs/"),
            ("POST", "/cronjobs/preview"),
            ("PUT", f"/cronjobs/{job}"),
            ("POST", "/cronjobs/pause"),
            ("POST", "/cronjobs/resume"),
            ("POST", "/cronjobs/maintenance"),
            ("POST", f"/users/{ann.username}/api-keys"),
        ]

    def test_an_unknown_key_is_named(self, ann: Any, operations: list[tuple[str, str]]) -> None:
        for method, path in operations:
            answer = ann(method, path, {"surprise": 1})
            assert_refused(answer, "surprise", path)
            assert "Unknown field 'surprise'" in [detail["message"] for detail in answer.json()["details"]]

    @pytest.mark.parametrize("body", ["[]", '"text"', "5", "null", "true", "[{}]"])
    def test_what_is_no_object_is_refused(self, ann: Any, operations: list[tuple[str, str]], body: str) -> None:
        for method, path in operations:
            answer = ann(method, path, content=body, headers={"Content-Type": "application/json"})
            assert_refused(answer, "body", path)

    @pytest.mark.parametrize(
        "body",
        [
            b"{",
            b"{'a': 1}",
            b'{"a": }',
            b"\xff\xfe",
            b'{"a": "\xff"}',
            b"[" * 100_000,
            b'{"a": ' + b"9" * 5000 + b"}",
            b"NaN",
        ],
    )
    def test_broken_json_is_refused(self, ann: Any, operations: list[tuple[str, str]], body: bytes) -> None:
        for method, path in operations:
            answer = ann(method, path, content=body, headers={"Content-Type": "application/json"})
            assert_refused(answer, None, path)

    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", "json"])
    def test_another_content_type_is_refused(self, ann: Any, operations: list[tuple[str, str]], kind: str) -> None:
        for method, path in operations:
            answer = ann(method, path, content=b'{"a":1}', headers={"Content-Type": kind})
            assert_refused(answer, "Content-Type", path)

    def test_a_lone_surrogate_is_refused(self, ann: Any) -> None:
        for path, valid, field in (
            ("/ftp/", FTP_CREATE, "password"),
            ("/cronjobs/", CRON_CREATE, "command"),
            ("/cronjobs/", CRON_CREATE, "name"),
            ("/cronjobs/", CRON_CREATE, "stdin"),
        ):
            body = json.dumps({**valid, field: "\ud800"})
            answer = ann("POST", path, content=body, headers={"Content-Type": "application/json"})
            assert_refused(answer, field, path)

    def test_a_lone_surrogate_in_a_variable_is_refused(self, ann: Any) -> None:
        for env in ({"A": "\ud800"}, {"A": {"value": "\ud800", "secret": True}}, {"A\ud800": "x"}):
            body = json.dumps(CRON_CREATE | {"env": env})
            answer = ann("POST", "/cronjobs/", content=body, headers={"Content-Type": "application/json"})
            assert_refused(answer, "env", "/cronjobs/")

    def test_json_that_does_not_say_so_is_fine(self, ann: Any) -> None:
        assert ann("POST", "/cronjobs/", content=json.dumps(CRON_CREATE)).status_code == 201

    def test_a_call_without_a_body_refuses_one(self, ann: Any) -> None:
        account = ann("POST", "/ftp/", FTP_CREATE).json()
        path = f"/ftp/{account['username']}/toggle"
        assert_refused(ann("POST", path, {"enabled": True}), "body", path)
        assert ann("GET", f"/ftp/{account['username']}").json()["enabled"] is True
        assert ann("POST", path, {}).json()["enabled"] is False

    def test_json_with_a_charset_is_fine(self, ann: Any) -> None:
        body = json.dumps(CRON_CREATE)
        headers = {"Content-Type": "application/json; charset=utf-8"}
        assert ann("POST", "/cronjobs/", content=body, headers=headers).status_code == 201

    def test_ten_megabytes_are_too_large(self, ann: Any, operations: list[tuple[str, str]]) -> None:
        for method, path in operations:
            answer = ann(method, path, {"name": "x" * 10_000_000})
            assert (answer.status_code, answer.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
