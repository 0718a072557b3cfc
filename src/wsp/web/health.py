"""`/healthz` and `/readyz`: for load balancers, container engines, and the person at 3 a.m."""

from typing import Annotated, Literal

from fastapi import Request, Response
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError

from wsp.database import Database
from wsp.heartbeat import Kind, alive
from wsp.rest.answers import Failure, failures
from wsp.rest.routing import Router
from wsp.rest.state import get_state
from wsp.revision import REVISION, stored_revision
from wsp.web.failures import failure

router = Router(tags=["Health"])

SERVICES: tuple[Kind, ...] = ("ftp", "cron")
READY = "ok"


class Health(BaseModel):
    """The API process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """What the server is made of, and that each part works."""

    status: Literal["ready"] = "ready"
    checks: Annotated[
        dict[str, str],
        Field(
            description="`ok`, or what is wrong",
            examples=[{"database": "ok", "migrations": "ok", "ftp": "ok", "cron": "ok"}],
        ),
    ]


class NotReady(Failure):
    """The answer while something is not ready."""

    checks: Annotated[dict[str, str], Field(description="`ok`, or what is wrong")]
    not_ready: Annotated[list[str], Field(description="The parts that are not ready", examples=[["cron"]])]


@router.get("/healthz", operation_id="getHealth", summary="Does the API answer?", responses=failures(only=(500,)))
async def healthz() -> Health:
    """Always 200 while the process serves; it looks at nothing else."""
    return Health()


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Is everything ready?",
    response_model=Readiness,
    responses={
        **failures(only=(500,)),
        503: {"model": NotReady, "description": "Something is not ready; `not_ready` names it"},
    },
)
def readyz(request: Request) -> Readiness | Response:
    """200 when the database, its schema, FTP and cron are ready, else 503 that names what is not."""
    checks = _checks(get_state(request).database)
    not_ready = [name for name, state in checks.items() if state != READY]
    if not not_ready:
        return Readiness(checks=checks)
    sentence = f"Not ready: {', '.join(not_ready)}"
    return failure(503, sentence, more={"checks": checks, "not_ready": not_ready})


def _checks(database: Database) -> dict[str, str]:
    """The state of each part, as far as one can look: without a schema there is no telling of the services."""
    try:
        revision = stored_revision(database)
        if revision != REVISION:
            return {"database": READY, "migrations": "the schema is not the one of this version"}
        with database.reading() as session:
            services: dict[str, str] = {
                kind: READY if alive(session, kind) else "no process of it is running" for kind in SERVICES
            }
    except SQLAlchemyError:
        return {"database": "no answer"}
    return {"database": READY, "migrations": READY, **services}
