"""`/healthz` and `/readyz`: for load balancers, container engines, and the person at 3 a.m."""

from typing import Annotated, Literal

from fastapi import Request, Response
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError

from wsp import schema
from wsp.heartbeat import Kind, alive
from wsp.rest.routing import Router
from wsp.rest.state import get_state

router = Router(tags=["Health"])

SERVICES: tuple[Kind, ...] = ("ftp", "cron")


class Health(BaseModel):
    """The API process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """What the server is made of, and whether each part works."""

    status: Annotated[str, Field(description="`ready` or `not ready`", examples=["ready"])]
    checks: Annotated[
        dict[str, str],
        Field(
            description="`ok`, or what is wrong",
            examples=[{"database": "ok", "migrations": "ok", "ftp": "ok", "cron": "ok"}],
        ),
    ]
    not_ready: Annotated[list[str], Field(description="The parts that are not ready")]


@router.get("/healthz", operation_id="getHealth", summary="Does the API answer?")
async def healthz() -> Health:
    """Always 200 while the process serves; it looks at nothing else."""
    return Health()


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Is everything ready?",
    responses={503: {"model": Readiness, "description": "Something is not ready; `not_ready` names it"}},
)
def readyz(request: Request, response: Response) -> Readiness:
    """200 when the database, its schema, FTP and cron are ready, else 503 that names what is not."""
    checks: dict[str, str] = {}
    database = get_state(request).database
    try:
        with database.reading() as session:
            checks["database"] = "ok"
            revision = schema.current(database)
            checks["migrations"] = "ok" if revision == schema.head() else "the schema is not current"
            for kind in SERVICES:
                checks[kind] = "ok" if alive(session, kind) else "no process of it is running"
    except SQLAlchemyError:
        checks.setdefault("database", "no answer")
        if checks["database"] == "ok":
            checks["migrations"] = "the schema is missing"
    not_ready = [name for name, state in checks.items() if state != "ok"]
    if not_ready:
        response.status_code = 503
    return Readiness(status="not ready" if not_ready else "ready", checks=checks, not_ready=not_ready)
