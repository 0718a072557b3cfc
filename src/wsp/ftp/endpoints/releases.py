"""`/api/v1/ftp/{id}/releases`, `publish`, `rollback`, `staging`: what SITE commands do over FTP.

The files have to be on the API's machine, at `WSP_FILES_ROOT`.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import BackgroundTasks, Query, Request, Response

from wsp.database import utc_now
from wsp.errors import Conflict, NotFound
from wsp.ftp import service
from wsp.ftp.deploy_schemas import (
    Deployed,
    DeployedFolder,
    PublishRequest,
    ReleaseId,
    ReleaseList,
    ReleaseOut,
    RollbackRequest,
)
from wsp.ftp.endpoints.parameters import AccountId, Caller, ftp_router
from wsp.ftp.jail import Jail
from wsp.ftp.models import FtpAccount
from wsp.ftp.releases import Releases
from wsp.homes import home_path, open_home
from wsp.rest.answers import Message, failures
from wsp.rest.lists import LIST_HEADERS, SHORT_PAGE_PARAMETERS, ShortPageQuery, page_headers
from wsp.rest.session import Reader, Writer, Zone
from wsp.rest.state import get_state
from wsp.settings import Settings

router = ftp_router()

FolderQuery = Annotated[DeployedFolder, Query()]

logger = logging.getLogger(__name__)


@router.get(
    "/{id}/releases",
    operation_id="listReleases",
    summary="List the releases of a folder",
    openapi_extra=SHORT_PAGE_PARAMETERS,
    responses={200: {"headers": LIST_HEADERS}, **failures(404, 409)},
)
def list_releases(
    id: AccountId,
    folder: FolderQuery,
    caller: Caller,
    session: Reader,
    zone: Zone,
    page: ShortPageQuery,
    request: Request,
    response: Response,
) -> ReleaseList:
    """The former states of a folder that is deployed atomically, the latest first. `search` is for their ids."""
    account = service.get_account(session, caller.sees_owner, id)
    with _releases(get_state(request).settings, account, folder) as releases:
        kept, staged = releases.list(), releases.is_staged()
    found = [ReleaseOut.of(release, zone) for release in kept if page.search in release.id]
    response.headers.update(page_headers(request, page, len(found)))
    shown = found[page.offset :][: page.limit]
    return ReleaseList(folder=folder, staged=staged, releases=shown, total=len(found))


@router.post(
    "/{id}/publish", operation_id="publishStaging", summary="Publish what was staged", responses=failures(404, 409)
)
def publish(
    id: AccountId, body: PublishRequest, caller: Caller, session: Writer, request: Request, later: BackgroundTasks
) -> Deployed:
    """What the account's sessions have uploaded since `SITE STAGE` becomes the folder, in one step."""
    account, settings = service.get_account(session, caller.sees_owner, id), get_state(request).settings
    with _releases(settings, account, body.folder) as releases:
        former = releases.publish(now=utc_now())
    later.add_task(_clean, settings, account, body.folder)
    return Deployed(message="Published successfully", folder=body.folder, release=former or None)


@router.post(
    "/{id}/rollback", operation_id="rollBackRelease", summary="Bring a release back", responses=failures(404, 409)
)
def roll_back(
    id: AccountId, body: RollbackRequest, caller: Caller, session: Writer, request: Request, later: BackgroundTasks
) -> Deployed:
    """The folder holds that release again, the latest when none is named. What it held becomes a release itself."""
    account, settings = service.get_account(session, caller.sees_owner, id), get_state(request).settings
    with _releases(settings, account, body.folder) as releases:
        restored, former = releases.rollback(body.release, now=utc_now())
    later.add_task(_clean, settings, account, body.folder)
    return Deployed(message=f"Rolled back to {restored}", folder=body.folder, release=former or None)


@router.delete(
    "/{id}/staging", operation_id="discardStaging", summary="Discard what was staged", responses=failures(404, 409)
)
def discard(
    id: AccountId, folder: FolderQuery, caller: Caller, session: Reader, request: Request, later: BackgroundTasks
) -> Message:
    """The folder stays as it is."""
    account, settings = service.get_account(session, caller.sees_owner, id), get_state(request).settings
    with _releases(settings, account, folder) as releases:
        releases.discard()
    later.add_task(_clean, settings, account, folder)
    return Message(message="Staging discarded successfully")


@router.delete("/{id}/releases", operation_id="removeReleases", summary="Remove releases", responses=failures(404, 409))
def remove_releases(
    id: AccountId,
    folder: FolderQuery,
    caller: Caller,
    session: Reader,
    request: Request,
    later: BackgroundTasks,
    release: Annotated[ReleaseId | None, Query(description="All of them when left out")] = None,
) -> Message:
    """They can no longer be brought back, and take no room any more."""
    account, settings = service.get_account(session, caller.sees_owner, id), get_state(request).settings
    with _releases(settings, account, folder) as releases:
        count = releases.forget(release or "")
    later.add_task(_clean, settings, account, folder)
    return Message(message=f"{count} release{'s' * (count != 1)} removed successfully")


@contextmanager
def _releases(settings: Settings, account: FtpAccount, folder: str) -> Iterator[Releases]:
    """The releases of a folder. What the file system refuses becomes a sentence for the caller."""
    home = home_path(settings.files, account.home_dir)
    if not home.is_dir():  # a home is made by the first login, which need not be on this machine
        raise Conflict("The files of this account are not on the API's machine, or there are none yet")
    try:
        jail = Jail(open_home(settings.files, account.home_dir), os.fspath(home))
        try:
            yield Releases(jail, account.username, folder)
        finally:
            jail.close()
    except FileNotFoundError:
        raise NotFound("There is no folder that this one could be in") from None
    except OSError as error:
        logger.warning("a deploy of %s by %s failed: %s", folder, account.username, error)
        raise Conflict(f"The file system refused that: {error.args[-1] if error.args else error}") from None


def _clean(settings: Settings, account: FtpAccount, folder: str) -> None:
    """After the answer: removing many files takes its time."""
    try:
        with _releases(settings, account, folder) as releases:
            releases.clean(keep=settings.ftp_keep_releases)
    except (Conflict, NotFound) as error:
        logger.warning("old releases of %s were not removed: %s", folder, error.sentence)
