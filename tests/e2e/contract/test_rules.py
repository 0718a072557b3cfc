"""The rules of the contract that hold everywhere, against a running server."""

import itertools
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.e2e

ENVELOPE = ["success", "code", "error", "message", "status"]
NIGHTLY = {"name": "nightly", "command": "true", "cron_expr": "0 3 * * *"}


def assert_failure(answer: httpx.Response, status: int, code: str, sentence: str | None = None) -> None:
    """The fixed shape, key order included."""
    body = answer.json()
    assert answer.status_code == status, answer.text
    assert list(body)[:5] == ENVELOPE
    assert set(body) <= {*ENVELOPE, "details", "request_id"}
    assert (body["success"], body["code"], body["status"]) == (False, code, status)
    assert body["error"] == body["message"]
    if sentence is not None:
        assert body["error"] == sentence


class TestErrors:
    def test_no_header(self, anybody: httpx.Client) -> None:
        for path in ("/api/v1/ftp/", "/api/v1/cronjobs", "/api/v1/auth/me", "/api/v1/users/admin/api-keys"):
            answer = anybody.get(path)
            assert_failure(answer, 401, "UNAUTHORIZED", "Missing authorization")
            assert answer.headers["www-authenticate"] == "Bearer"

    @pytest.mark.parametrize(
        "header", ["Bearer wsp_" + "0" * 48, "Bearer x", "Bearer", "Basic YTpi", "wsp_abc", "Bearer wsp_ä"]
    )
    def test_a_key_nobody_knows(self, anybody: httpx.Client, header: str) -> None:
        answer = anybody.get("/api/v1/ftp/", headers=[(b"Authorization", header.encode())])
        assert_failure(answer, 401, "UNAUTHORIZED", "Invalid or expired API key")
        assert answer.headers["www-authenticate"] == "Bearer"

    def test_a_path_nobody_knows(self, ann: Any, anybody: httpx.Client) -> None:
        for path in ("/", "/api", "/api/v1", "/api/v1/nothing", "/api/v1/ftp/a/b/c", "//api/v1/ftp", "/%00"):
            assert_failure(anybody.get(path), 404, "NOT_FOUND")
        assert_failure(ann("GET", "/nothing"), 404, "NOT_FOUND")

    def test_a_method_that_is_not_there(self, ann: Any) -> None:
        answer = ann("PATCH", "/ftp/")
        assert_failure(answer, 405, "METHOD_NOT_ALLOWED")
        assert answer.headers["allow"] == "GET, HEAD, POST"
        assert ann("POST", "/cronjobs/1").headers["allow"] == "DELETE, GET, HEAD, PUT"
        assert ann("POST", "/cronjobs/1").json()["status"] == 405

    def test_head_is_get_without_the_content(self, ann: Any, anybody: httpx.Client) -> None:
        for answer, same in ((ann("HEAD", "/ftp/"), ann("GET", "/ftp/")), (anybody.head("/healthz"), None)):
            assert (answer.status_code, answer.content) == (200, b"")
            if same is not None:
                assert answer.headers["content-length"] == same.headers["content-length"]

    def test_a_body_that_is_too_large(self, ann: Any) -> None:
        body = {"username": "deploy", "password": "x" * 10_000_000}
        assert_failure(ann("POST", "/ftp/", body), 413, "PAYLOAD_TOO_LARGE")
        assert ann("GET", "/ftp/").json()["total"] == 0

    def test_a_large_body_without_a_length(self, ann: Any) -> None:
        chunks = (b"x" * 100_000 for _ in range(50))
        assert_failure(ann("POST", "/ftp/", content=chunks), 413, "PAYLOAD_TOO_LARGE")

    def test_the_key_is_asked_for_before_the_body_is_looked_at(self, anybody: httpx.Client) -> None:
        for path in ("/api/v1/ftp/", "/api/v1/cronjobs/"):
            for options in ({"content": b"{"}, {"data": {"a": "b"}}, {"json": {}, "headers": {"Idempotency-Key": ""}}):
                answer = anybody.post(path, **options)
                assert_failure(answer, 401, "UNAUTHORIZED", "Missing authorization")

    def test_what_is_no_http(self, server: Any) -> None:
        with socket.create_connection(("127.0.0.1", server.http_port), timeout=30) as connection:
            connection.sendall(b"GET /api/v1/ftp HTTP/1.1\r\nAuthorization: \x7f\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert list(json.loads(body)) == ENVELOPE

    def test_nothing_of_the_machine_is_told(self, ann: Any) -> None:
        for answer in (ann("GET", "/ftp/x"), ann("POST", "/ftp/", content=b"{"), ann("GET", "/cronjobs/abc")):
            assert not re.search(r"Traceback|sqlite|postgres|\.py|/home/|/tmp/", answer.text)


class TestKeys:
    def test_issue_list_use_revoke(self, ann: Any, anybody: httpx.Client) -> None:
        path = f"/users/{ann.username}/api-keys"
        answer = ann("POST", path, {"name": "ci", "permissions": ["ftp"], "expires_in": 30})
        assert answer.status_code == 201
        issued = answer.json()
        assert list(issued) == ["success", "message", "secret_key", "api_key", "key"]
        assert issued["success"] is True
        assert issued["secret_key"] == issued["api_key"]
        assert re.fullmatch(r"wsp_[0-9a-f]{48}", issued["secret_key"])
        key = issued["key"]
        assert list(key) == [
            "id",
            "name",
            "key_prefix",
            "permissions",
            "ip_whitelist",
            "last_used",
            "created_at",
            "expires_at",
            "enabled",
        ]
        assert re.fullmatch(r"[0-9a-f]{16}", key["id"])
        assert key["key_prefix"] == issued["secret_key"][:12]
        assert key["last_used"] == "0001-01-01T00:00:00Z"
        assert key["expires_at"].endswith("+07:00")
        listed = ann("GET", path).json()
        assert listed["total"] == 2
        assert key["id"] in [k["id"] for k in listed["keys"]]
        assert issued["secret_key"] not in ann("GET", path).text

        with_key = {"Authorization": f"Bearer {issued['secret_key']}"}
        assert anybody.get("/api/v1/ftp/", headers=with_key).status_code == 200
        assert anybody.get("/api/v1/ftp/", headers=with_key).status_code == 200
        assert ann("DELETE", f"{path}/{key['id']}").json() == {"message": "API key revoked successfully"}
        assert_failure(anybody.get("/api/v1/ftp/", headers=with_key), 401, "UNAUTHORIZED", "Invalid or expired API key")
        assert ann("DELETE", f"{path}/{key['id']}").status_code == 404

    def test_last_used_is_noted(self, ann: Any, wait_until: Any) -> None:
        path = f"/users/{ann.username}/api-keys"
        wait_until(lambda: ann("GET", path).json()["keys"][0]["last_used"].startswith("20"), "the use is noted", 10)

    def test_a_user_issues_keys_for_nobody_else(self, ann: Any, make_caller: Any) -> None:
        bob = make_caller()
        for method, body in (("POST", {"name": "x"}), ("GET", None)):
            assert_failure(ann(method, f"/users/{bob.username}/api-keys", body), 404, "NOT_FOUND", "User not found")
            assert_failure(ann(method, "/users/nobody-knows/api-keys", body), 404, "NOT_FOUND", "User not found")

    def test_an_admin_issues_keys_for_anyone(self, admin: Any, ann: Any) -> None:
        assert admin("POST", f"/users/{ann.username}/api-keys", {"name": "x"}).status_code == 201

    def test_no_key_has_more_than_the_one_that_issued_it(self, make_caller: Any) -> None:
        limited = make_caller(permissions=("ftp",), ip_whitelist=("127.0.0.0/8",), expires_in=10)
        path = f"/users/{limited.username}/api-keys"
        within = {"name": "x", "permissions": ["ftp"], "ip_whitelist": ["127.0.0.1"], "expires_in": 5}
        assert limited("POST", path, within).status_code == 201
        too_much: tuple[dict[str, Any], ...] = (
            {"permissions": ["all"]},
            {"permissions": ["ftp", "cron"]},
            {"ip_whitelist": []},
            {"ip_whitelist": ["126.0.0.0/7"]},
            {"ip_whitelist": ["::1"]},
            {"expires_in": 0},
            {"expires_in": 11},
        )
        for beyond in too_much:
            assert_failure(limited("POST", path, within | beyond), 403, "FORBIDDEN")

    def test_a_key_for_other_addresses_is_refused(self, make_caller: Any) -> None:
        elsewhere = make_caller(ip_whitelist=("203.0.113.0/24",))
        assert_failure(elsewhere("GET", "/ftp/"), 403, "FORBIDDEN", "API key is not allowed from this address")
        here = make_caller(ip_whitelist=("203.0.113.0/24", "127.0.0.1"))
        assert here("GET", "/ftp/").status_code == 200

    def test_read_is_every_get_and_nothing_else(self, make_caller: Any) -> None:
        reader = make_caller(permissions=("read",))
        for path in ("/ftp/", "/ftp/status", "/cronjobs/", "/auth/me", f"/users/{reader.username}/api-keys"):
            assert reader("GET", path).status_code == 200
        assert_failure(
            reader("POST", "/ftp/", {"username": "ab", "password": "x"}),
            403,
            "FORBIDDEN",
            "API key is not scoped for 'ftp'",
        )
        assert_failure(reader("POST", "/cronjobs/", NIGHTLY), 403, "FORBIDDEN", "API key is not scoped for 'cron'")
        assert_failure(reader("POST", f"/users/{reader.username}/api-keys", {"name": "x"}), 403, "FORBIDDEN")

    def test_who_am_i(self, ann: Any) -> None:
        body = ann("GET", "/auth/me").json()
        assert list(body)[:4] == ["username", "email", "role", "status"]
        assert [body[k] for k in list(body)[:4]] == [ann.username, "someone@example.com", "user", "active"]


class TestLists:
    def test_without_a_limit_the_list_is_complete(self, ann: Any) -> None:
        for number in range(5):
            ann("POST", "/ftp/", {"username": f"n{number}", "password": "pw"})
        answer = ann("GET", "/ftp/")
        assert len(answer.json()["accounts"]) == answer.json()["total"] == 5
        assert answer.headers["x-total-count"] == "5"
        assert "link" not in answer.headers

    def test_links_lead_through_all_of_it_and_back(self, ann: Any) -> None:
        for number in range(5):
            ann("POST", "/cronjobs/", NIGHTLY | {"name": f"job & {number}"})
        seen, path = [], "/cronjobs/?limit=2&search=job%20%26"
        while path:
            answer = ann("GET", path)
            assert answer.headers["x-total-count"] == "5"
            seen += [job["name"] for job in answer.json()]
            following = answer.links.get("next", {}).get("url", "")
            path = following.removeprefix("/api/v1")
        assert seen == [f"job & {number}" for number in range(5)]
        assert answer.links["prev"]["url"] == "/api/v1/cronjobs/?limit=2&search=job+%26&offset=2"

    def test_search_domain_and_owner_narrow_it(self, admin: Any, ann: Any) -> None:
        ann("POST", "/ftp/", {"username": "shop", "password": "pw", "domain": "shop.example"})
        ann("POST", "/ftp/", {"username": "blog_1", "password": "pw"})

        def names(query: str) -> list[str]:
            return [account["username"] for account in ann("GET", f"/ftp/?{query}").json()["accounts"]]

        assert names("domain=Shop.Example") == [f"{ann.username}_shop"]
        assert names("search=BLOG_") == [f"{ann.username}_blog_1"]
        assert names("search=%25") == []
        assert names("owner=admin") == []
        found = admin("GET", f"/ftp/?owner={ann.username}&limit=1")
        assert found.json()["total"] == 2
        assert len(found.json()["accounts"]) == 1

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=-1", "limit=x", "offset=-1", "offset=1e3", f"limit={2**31}", "search=%00"]
    )
    def test_a_wrong_parameter_is_named(self, ann: Any, query: str) -> None:
        for path in ("/ftp/", "/cronjobs/", f"/users/{ann.username}/api-keys"):
            answer = ann("GET", f"{path}?{query}")
            assert_failure(answer, 400, "VALIDATION_ERROR")
            assert answer.json()["details"][0]["field"] == query.split("=")[0]


class TestIdempotency:
    def test_a_repeated_post_replays_the_answer(self, ann: Any) -> None:
        for path, body in (
            ("/cronjobs/", NIGHTLY),
            ("/ftp/", {"username": "deploy", "password": "pw"}),
            (f"/users/{ann.username}/api-keys", {"name": "x"}),
        ):
            once = ann("POST", path, body, headers={"Idempotency-Key": f"k {path}"})
            again = ann("POST", path, body, headers={"Idempotency-Key": f"k {path}"})
            assert (again.status_code, again.content) == (once.status_code, once.content)
            assert again.headers["idempotent-replayed"] == "true"
        assert len(ann("GET", "/cronjobs/").json()) == 1

    def test_a_post_without_a_body_too(self, ann: Any) -> None:
        account = ann("POST", "/ftp/", {"username": "deploy", "password": "pw"}).json()["username"]
        for _ in range(2):
            answer = ann("POST", f"/ftp/{account}/toggle", headers={"Idempotency-Key": "t"})
            assert answer.json()["enabled"] is False
        assert ann("GET", f"/ftp/{account}").json()["enabled"] is False

    def test_the_key_with_another_body_is_a_conflict(self, ann: Any) -> None:
        headers = {"Idempotency-Key": "k"}
        assert ann("POST", "/cronjobs/", NIGHTLY, headers=headers).status_code == 201
        assert_failure(ann("POST", "/cronjobs/", NIGHTLY | {"name": "other"}, headers=headers), 409, "CONFLICT")
        elsewhere = {"username": "deploy", "password": "pw"}
        assert_failure(ann("POST", "/ftp/", elsewhere, headers=headers), 409, "CONFLICT")
        assert ann("GET", "/ftp/").json()["total"] == 0
        assert len(ann("GET", "/cronjobs/").json()) == 1

    def test_a_failed_request_may_be_mended_under_the_same_key(self, ann: Any) -> None:
        headers = {"Idempotency-Key": "k"}
        assert ann("POST", "/cronjobs/", {}, headers=headers).status_code == 400
        assert ann("POST", "/cronjobs/", NIGHTLY, headers=headers).status_code == 201

    def test_callers_do_not_share_keys(self, ann: Any, make_caller: Any) -> None:
        bob = make_caller()
        headers = {"Idempotency-Key": "k"}
        assert ann("POST", "/cronjobs/", NIGHTLY, headers=headers).json()["owner"] == ann.username
        assert bob("POST", "/cronjobs/", NIGHTLY, headers=headers).json()["owner"] == bob.username

    def test_many_at_once_do_it_once(self, ann: Any) -> None:
        def post(_: int) -> httpx.Response:
            answer: httpx.Response = ann("POST", "/cronjobs/", NIGHTLY, headers={"Idempotency-Key": "k"})
            return answer

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(post, range(16)))
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.content for answer in answers}) == 1
        assert len(ann("GET", "/cronjobs/").json()) == 1

    def test_many_at_once_with_keys_of_their_own_do_not_lock_each_other_up(self, ann: Any) -> None:
        def post(number: int) -> int:
            headers = {"Idempotency-Key": f"k{number}"}
            answer = ann("POST", "/cronjobs/", NIGHTLY | {"name": f"n{number}"}, headers=headers)
            return int(answer.status_code)

        with ThreadPoolExecutor(80) as pool:
            assert set(pool.map(post, range(80))) == {201}
        assert len(ann("GET", "/cronjobs/").json()) == 80

    @pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
    def test_a_key_that_is_no_key_is_refused(self, ann: Any, key: str) -> None:
        answer = ann("POST", "/cronjobs/", NIGHTLY, headers={"Idempotency-Key": key})
        assert_failure(answer, 400, "VALIDATION_ERROR")
        assert answer.json()["details"][0]["field"] == "Idempotency-Key"


class TestRateLimit:
    def test_every_answer_says_what_is_left(self, ann: Any, anybody: httpx.Client) -> None:
        for answer in (ann("GET", "/ftp/"), ann("GET", "/nothing"), ann("POST", "/ftp/"), anybody.get("/api/v1/ftp")):
            assert answer.headers["x-ratelimit-limit"] == "6000"
            assert 0 <= int(answer.headers["x-ratelimit-remaining"]) < 6000
            assert int(answer.headers["x-ratelimit-reset"]) > 1_700_000_000

    def test_over_the_limit_is_429(self, start_server: Any) -> None:
        server = start_server(WSP_RATE_LIMIT="5")
        headers = {"Authorization": f"Bearer {server.token}"}
        with httpx.Client(base_url=server.url, headers=headers) as client:
            # A window may end in between, so up to two windows' worth is needed.
            answers = [client.get("/api/v1/ftp/") for _ in range(11)]
            refused = next(answer for answer in answers if answer.status_code != 200)
        assert_failure(refused, 429, "RATE_LIMITED")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["x-ratelimit-remaining"] == "0"

    def test_a_key_has_one_count_however_the_scheme_is_written(self, ann: Any) -> None:
        left = []
        for scheme in ("Bearer", "bearer", "BEARER"):
            answer = ann("GET", "/ftp/", headers={"Authorization": f"{scheme} {ann.secret}"})
            left.append((answer.headers["x-ratelimit-reset"], int(answer.headers["x-ratelimit-remaining"])))
        for (window, before), (next_window, after) in itertools.pairwise(left):
            assert after == before - 1 or next_window != window

    def test_zero_is_no_limit(self, start_server: Any) -> None:
        server = start_server(WSP_RATE_LIMIT="0")
        assert server.call("GET", "/ftp/")[0] == 200
