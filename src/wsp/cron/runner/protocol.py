"""What goes over the line between a scheduler and a runner: a JSON object a line. Bytes are base64.

To the runner: `prepare` (a list of orders, with the fields of wsp.cron.runner.orders.Order that differ from their
defaults: they are expected to be started soon), `start` (a list of orders, or of the run ids of those that were
prepared), `drop` (run ids of those that were prepared and are not going to be started), `kill` ([run id, reason, grace
or null]), `acknowledge` (run ids).
From the runner: `hello` (first of all: its id, the protocol, its runs) or `busy` (another scheduler speaks to it),
`started` (a list of the fields of Started), `ended` (a list of the fields of Ended).
"""

import json

PROTOCOL = 2

RUNNERS, OUTPUTS = "runner", "output"
"""The folders of sockets, and of outputs (see wsp.cron.runner.spool), in that of cron."""

SOCKET_SUFFIX = ".sock"
LOG_SUFFIX = ".log"

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def socket_name(runner_id: str) -> str:
    """The name of a runner's socket in the folder of runners."""
    return runner_id + SOCKET_SUFFIX


def log_name(runner_id: str) -> str:
    """The name of what a runner's standard error goes to, there as well. Gone when it ended in order."""
    return runner_id + LOG_SUFFIX


def encode(message: dict[str, object]) -> bytes:
    """A message as a line."""
    return _encode(message).encode() + b"\n"


def decode(line: bytes) -> dict[str, object]:
    """The message of a line. Raises ValueError."""
    try:
        message = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message
