"""The environment variables of a job: as a request gives them, as they are kept, and as answers show them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsp.cron.policy import Policy
from wsp.cron.runner.masking import SHORTEST_SECRET
from wsp.errors import Invalid

MAX_VARIABLES = 200
MAX_NAME_CHARS = 128
MAX_ENV_BYTES = 32768  # names and values; the kernel gives arguments and environment together 2 MB

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_OWN_VARIABLE = "WSP_RUN_ID"  # by which the server finds a command's processes again


@dataclass(frozen=True)
class Variable:
    """A variable of a body's `env`. `value` is None where a secret keeps the value that it has."""

    value: str | None
    secret: bool = False


def parse_variables(given: dict[str, Any]) -> dict[str, Variable]:
    """`env` of a body, by name. Raises ValueError about the first variable that is wrong."""
    if len(given) > MAX_VARIABLES:
        raise ValueError(f"must have at most {MAX_VARIABLES} variables")
    variables = {name: _variable(name, value) for name, value in given.items()}
    size = sum(len(name) + len((each.value or "").encode()) for name, each in variables.items())
    if size > MAX_ENV_BYTES:
        raise ValueError(f"must have at most {MAX_ENV_BYTES} bytes, names and values together")
    return variables


def _variable(name: str, given: object) -> Variable:
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
        raise ValueError("must have names of at most 128 letters, digits and '_' that do not begin with a digit")
    if name == _OWN_VARIABLE:
        raise ValueError(f"Env: {name} is set by the server")
    if isinstance(given, str):
        return Variable(_value(name, given))
    if isinstance(given, Mapping) and given.keys() <= {"value", "secret"}:
        value, secret = given.get("value"), given.get("secret", False)
        if isinstance(secret, bool) and (isinstance(value, str) or "value" not in given):
            if value is None and not secret:
                raise ValueError(f"Env: {name} needs a value")
            return Variable(None if value is None else _value(name, value), secret)
    raise ValueError(f'Env: {name} must be a string, or an object as {{"value": "s3cret", "secret": true}}')


def _value(name: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"Env: {name} must be valid Unicode text") from None
    if "\0" in value:
        raise ValueError(f"Env: {name} must not contain NUL")
    return value


def with_variables(policy: Policy, given: Mapping[str, Variable]) -> dict[str, Any]:
    """What `env` and `secrets` of a policy become.

    Raises Invalid for a secret without a value, now and before, and for one that is too short to be masked in output.
    """
    env: dict[str, str] = {}
    for name, variable in given.items():
        value = policy.env.get(name, "") if variable.value is None else variable.value
        if variable.secret and not value:
            raise Invalid(f"Env: {name} is a secret, it needs a value", field="env")
        if variable.secret and len(value.strip().encode()) < SHORTEST_SECRET:
            raise Invalid(f"Env: {name} is a secret, its value must have {SHORTEST_SECRET} bytes or more", field="env")
        env[name] = value
    return {"env": env, "secrets": tuple(sorted(name for name, variable in given.items() if variable.secret))}


def shown_variables(policy: Policy) -> dict[str, Any]:
    """The variables as answers and events show them: of a secret no more than that it is one."""
    return {name: {"secret": True} if name in policy.secrets else value for name, value in policy.env.items()}
