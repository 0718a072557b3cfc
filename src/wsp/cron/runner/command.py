"""An order as it arrives: what is to be started, checked as far as it has to be to be tried."""

import binascii
from collections.abc import Mapping

# Of those that may be left out. A default stands for its type as well.
_DEFAULTS: "dict[str, str | int | float]" = {
    "shell": "/bin/sh",
    "user": "",
    "timeout_seconds": 0.0,
    "kill_grace_seconds": 10.0,
    "max_output_bytes": 65536,
    "memory_mb": 0,
    "cpu_seconds": 0,
    "max_processes": 0,
    "nice": 0,
}


class Command:
    """What wsp.cron.runner.orders.Order says, without what a dataclass costs in memory."""

    __slots__ = (
        "command",
        "cpu_seconds",
        "environment",
        "folder",
        "kill_grace_seconds",
        "max_output_bytes",
        "max_processes",
        "memory_mb",
        "nice",
        "run_id",
        "secrets",
        "shell",
        "stdin",
        "timeout_seconds",
        "user",
    )

    run_id: int
    command: str
    folder: str
    environment: dict[str, str]
    shell: str
    stdin: bytes
    secrets: list[str]
    user: str
    timeout_seconds: float
    kill_grace_seconds: float
    max_output_bytes: int
    memory_mb: int
    cpu_seconds: int
    max_processes: int
    nice: int

    def __init__(self, fields: Mapping[str, object]) -> None:
        """Raises ValueError. Fields that it does not know are passed over."""
        self.run_id = run_id(fields)
        for name in ("command", "folder"):
            setattr(self, name, _of_type(name, fields.get(name), str))
        for name, default in _DEFAULTS.items():
            value = fields.get(name, default)
            if type(value) is not type(default):
                value = _of_type(name, value, (int, float) if isinstance(default, float) else type(default))
            setattr(self, name, value)
        environment = fields.get("environment")
        if not isinstance(environment, dict) or not all(map(_is_text, environment.values())):
            raise ValueError("environment has to be text by name")
        self.environment = environment
        secrets = fields.get("secrets", [])
        if not isinstance(secrets, list) or not all(map(_is_text, secrets)):
            raise ValueError("secrets have to be text")
        self.secrets = secrets
        self.stdin = binascii.a2b_base64(str(fields.get("stdin", "")))


def run_id(fields: Mapping[str, object]) -> int:
    """The run that an order is for. Raises ValueError."""
    return _of_type("run_id", fields.get("run_id"), int)


def _of_type(name: str, value: object, kind: "type | tuple[type, ...]") -> "int":
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is missing, or not what it should be")
    return value  # type: ignore[return-value]


def _is_text(value: object) -> bool:
    return isinstance(value, str)
