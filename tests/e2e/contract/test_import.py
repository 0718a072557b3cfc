"""Many FTP accounts at once over the API, against a running server."""

import ftplib
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

HASH = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"


def account(name: str, **fields: Any) -> dict[str, Any]:
    return {"username": name, "password_hash": HASH, **fields}


class TestJson:
    def test_gives_a_result_for_each(self, ann: Any) -> None:
        body = {"accounts": [account("one"), account("two", quota_mb=-1), account("three", owner="admin")]}
        tried = ann("POST", "/ftp/import", body | {"dry_run": True})
        assert (tried.status_code, tried.json()["results"][0]["status"]) == (200, "would_create")
        assert ann("GET", "/ftp").json()["total"] == 0
        answer = ann("POST", "/ftp/import", body)
        assert answer.status_code == 200
        assert answer.json() == {
            "dry_run": False,
            "created": 1,
            "skipped": 0,
            "failed": 2,
            "results": [
                {"line": 1, "username": f"{ann.username}_one", "status": "created", "message": ""},
                {"line": 2, "username": "two", "status": "failed", "message": "Quota must be at least 0"},
                {"line": 3, "username": "three", "status": "failed", "message": "Only an admin may set the owner"},
            ],
        }
        assert [a["username"] for a in ann("GET", "/ftp").json()["accounts"]] == [f"{ann.username}_one"]

    def test_makes_accounts_that_can_log_in(self, ann: Any, server: Any) -> None:
        ann("POST", "/ftp/import", {"accounts": [{"username": "deploy", "password": "S3cure•pass"}]})
        with ftplib.FTP() as ftp:
            ftp.connect("127.0.0.1", server.ftp_port, timeout=30)
            assert ftp.login(f"{ann.username}_deploy", "S3cure•pass").startswith("230")

    def test_for_others_is_for_admins(self, ann: Any, admin: Any) -> None:
        body = {"accounts": [account("one")], "owner": ann.username}
        assert admin("POST", "/ftp/import", body).json()["results"][0]["username"] == f"{ann.username}_one"
        assert ann("POST", "/ftp/import", body | {"owner": "admin"}).status_code == 403

    def test_can_be_repeated(self, ann: Any) -> None:
        body = {"accounts": [account("one")]}
        first, second = (ann("POST", "/ftp/import", body, headers={"Idempotency-Key": "k"}) for _ in range(2))
        assert first.json() == second.json()
        assert ann("POST", "/ftp/import", body).json()["skipped"] == 1

    @pytest.mark.parametrize(
        ("body", "field", "sentence"),
        [
            ({}, "accounts", "Accounts is required"),
            ({"format": "pure-ftpd"}, "text", "Text is required"),
            ({"text": "x"}, "text", "Text does not go with the format json"),
            ({"format": "pure-ftpd", "accounts": []}, "accounts", "Accounts does not go with the format pure-ftpd"),
            ({"format": "csv", "accounts": []}, "format", "Format must be one of 'json' or 'pure-ftpd'"),
            ({"accounts": {}}, "accounts", "Accounts must be a list"),
            ({"accounts": [], "dry_run": "yes"}, "dry_run", "Dry run must be true or false"),
            ({"accounts": [1] * 1001}, "accounts", "Accounts must have at most 1000 items"),
            ({"format": "pure-ftpd", "text": "x\n" * 1001}, "text", "At most 1000 accounts at once: split the file"),
            (
                {"accounts": [{"username": f"u{n:03}", "password": "pw"} for n in range(501)]},
                "accounts",
                "At most 500 passwords at once",
            ),
        ],
    )
    def test_says_what_is_wrong(self, ann: Any, body: dict[str, Any], field: str, sentence: str) -> None:
        answer = ann("POST", "/ftp/import", body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"].startswith(sentence)
        assert answer.json()["details"][0]["field"] == field
        assert ann("GET", "/ftp").json()["total"] == 0


class TestPureFtpd:
    def test_says_what_of_a_line_is_not_kept(self, ann: Any) -> None:
        text = f"joe:{HASH}:1:1:Joe:/home/{ann.username}/joe/./:::1:2:3:::::::\nbad\n"
        answer = ann("POST", "/ftp/import", {"format": "pure-ftpd", "text": text, "atomic": False})
        joe, bad = answer.json()["results"]
        assert (joe["line"], joe["status"]) == (1, "created")
        assert joe["message"] == "upload ratio '1' is not kept; download ratio '2' is not kept"
        assert (bad["line"], bad["username"], bad["status"]) == (2, "bad", "failed")
        created = ann("GET", f"/ftp/{joe['username']}").json()
        assert (created["max_sessions"], created["home_subdir"], created["description"]) == (3, "joe", "Joe")

    def test_makes_none_when_one_fails_and_all_were_asked_for(self, ann: Any) -> None:
        text = f"joe:{HASH}:1:1::/home/{ann.username}/joe/./::::::::::::\nbad\n"
        answer = ann("POST", "/ftp/import", {"format": "pure-ftpd", "text": text, "atomic": True})
        assert (answer.json()["created"], answer.json()["skipped"], answer.json()["failed"]) == (0, 1, 1)
        assert ann("GET", "/ftp").json()["total"] == 0
