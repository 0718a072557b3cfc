"""The OpenAPI document: complete, usable without the internet, and kept by every answer."""

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = pytest.mark.e2e

EXAMPLES_PER_OPERATION = 40


class TestDocument:
    @pytest.fixture
    def document(self, anybody: httpx.Client) -> dict[str, Any]:
        answer: dict[str, Any] = anybody.get("/openapi.json").json()
        return answer

    def test_every_operation_is_described(self, document: dict[str, Any]) -> None:
        ids = []
        for path, item in document["paths"].items():
            for method, operation in item.items():
                where = f"{method} {path}"
                ids.append(operation["operationId"])
                assert operation["summary"], where
                assert operation["description"], where
                assert operation["tags"], where
                assert "422" not in operation["responses"], where
        assert len(ids) == len(set(ids))
        assert not any(path != "/" and f"{path}/" in document["paths"] for path in document["paths"])

    def test_every_operation_shows_its_errors_and_needs_the_key(self, document: dict[str, Any]) -> None:
        for path, item in document["paths"].items():
            if not path.startswith("/api/"):
                continue
            for method, operation in item.items():
                where = f"{method} {path}"
                assert {"400", "401", "403", "429", "500", "503"} <= set(operation["responses"]), where
                for status, response in operation["responses"].items():
                    if int(status) >= 400:
                        schema = response["content"]["application/json"]["schema"]
                        assert schema == {"$ref": "#/components/schemas/Failure"}, where
                        assert response["content"]["application/json"]["example"]["status"] == int(status)
                assert operation["security"] == [{"ApiKey": []}], where
        assert document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"

    def test_every_field_of_a_body_is_shown_with_an_example(self, document: dict[str, Any]) -> None:
        schemas = document["components"]["schemas"]
        for name in ("AccountCreate", "JobCreate", "KeyRequest", "WebhookCreate"):
            required = schemas[name]["required"]
            for field in required:
                assert schemas[name]["properties"][field].get("examples"), f"{name}.{field}"

    def test_every_value_of_an_answer_is_shown_with_an_example(self, document: dict[str, Any]) -> None:
        schemas = document["components"]["schemas"]
        without = {
            f"{name}.{field}"
            for name in _answers(document)
            for field, shown in schemas[name].get("properties", {}).items()
            if shown.get("type") in ("string", "integer", "object") and not shown.keys() & {"examples", "const"}
        }
        assert sorted(without) == []

    def test_the_page_needs_no_other_host(self, anybody: httpx.Client) -> None:
        page = anybody.get("/docs")
        assert page.status_code == 200
        assert not re.search(r"https?://", page.text)
        for asset in re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text):
            assert anybody.get(asset).status_code == 200, asset


def _answers(document: dict[str, Any]) -> set[str]:
    """The names of the schemas that successful answers are made of."""
    answers = [
        response
        for item in document["paths"].values()
        for operation in item.values()
        for status, response in operation["responses"].items()
        if status.startswith("2")
    ]
    found: set[str] = set()
    while names := set(re.findall(r"schemas/(\w+)", json.dumps(answers))) - found:
        found |= names
        answers = [document["components"]["schemas"][name] for name in names]
    return found


class TestAnswers:
    @pytest.mark.timeout(900)  # many requests to each of many operations
    def test_no_request_gets_a_5xx_or_an_answer_outside_the_schema(
        self, server: Any, make_caller: Callable[..., Any]
    ) -> None:
        caller = make_caller()
        headers = {"Authorization": f"Bearer {caller.secret}"}
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        checks = [
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ]
        tried = 0
        for result in schema.get_all_operations():
            assert isinstance(result, Ok), result
            operation = result.ok()
            if not operation.path.startswith("/api/"):
                continue

            @hypothesis_settings(
                max_examples=EXAMPLES_PER_OPERATION,
                database=None,
                deadline=None,
                derandomize=True,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def try_one(case: Any) -> None:
                nonlocal tried
                tried += 1
                case.call_and_validate(headers=headers, checks=checks)

            try_one()
        assert tried > 300
