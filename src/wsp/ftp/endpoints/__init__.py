"""`/api/v1/ftp`."""

from wsp.ftp.endpoints import accounts, anonymous, credentials, releases

# Fixed names before `{id}`: the first route that fits is taken. An account's id always has a `_` in it.
ROUTERS = (accounts.router, anonymous.router, credentials.router, releases.router)
