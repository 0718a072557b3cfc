"""`/api/v1/ftp`."""

from wsp.ftp.endpoints import accounts, anonymous, credentials, guests, releases

# Fixed names before `{id}`: the first route that fits is taken. An account's id always has a `_` in it.
ROUTERS = (guests.router, accounts.router, anonymous.router, credentials.router, releases.router)
