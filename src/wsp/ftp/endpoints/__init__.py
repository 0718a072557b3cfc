"""`/api/v1/ftp`."""

from wsp.ftp.endpoints import accounts, anonymous, bulk, credentials, guests, releases, sessions, transfers

# Fixed names before `{id}`: the first route that fits is taken. An account's id always has a `_` in it.
ROUTERS = (
    bulk.router,
    guests.router,
    sessions.router,
    transfers.router,
    accounts.router,
    anonymous.router,
    credentials.router,
    releases.router,
)
