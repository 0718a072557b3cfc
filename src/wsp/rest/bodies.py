"""Request bodies: strict, and with one sentence for a person about whatever is wrong with them."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from wsp.errors import Invalid

BODY_FIELD = "body"

_TYPE_NAMES = {
    "string_type": "a string",
    "string_unicode": "valid Unicode text",
    "bool_type": "true or false",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "float_type": "a number",
    "finite_number": "a number",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


class RequestBody(BaseModel):
    """The parent of every body. Unknown keys and wrong types are errors; nothing is guessed or converted.

    Validation raises `wsp.errors.Invalid`: its sentence is about the first field that is wrong, in the order in
    which the fields are declared, and its details are about all of them.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="wrap")
    @classmethod
    def _in_sentences(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            details = [cls._detail(e) for e in error.errors(include_url=False, include_input=False)]
        raise Invalid(details[0][1], details=details)

    @classmethod
    def _detail(cls, error: ErrorDetails) -> tuple[str, str]:
        location = error["loc"]
        if not location:
            return BODY_FIELD, "The body must be a JSON object"
        name = str(location[0])
        if error["type"] == "extra_forbidden" and len(location) == 1:
            return name[:100], f"Unknown field '{name[:100]}'"
        title = ": ".join([cls._title(name), *(_step(step) for step in location[1:])])
        return name, _sentence(title, error, cls._least_characters(name))

    @classmethod
    def _title(cls, name: str) -> str:
        return cls._field(name).title or name.replace("_", " ").capitalize()

    @classmethod
    def _least_characters(cls, name: str) -> int:
        lengths = (getattr(rule, "min_length", None) for rule in cls._field(name).metadata)
        return max((length for length in lengths if length), default=1)

    @classmethod
    def _field(cls, name: str) -> FieldInfo:
        """A field by its name in JSON: the alias where Python has another use for the word."""
        return next(field for key, field in cls.model_fields.items() if name == (field.alias or key))


def left_out() -> Any:
    """The default of a field of a PUT body: the field is not required, and leaving it out changes nothing.

    The value is never looked at: services are handed `body.named()`.
    """
    return Field(default_factory=lambda: None)


class ChangeBody(RequestBody):
    """A PUT body: it changes only what it names."""

    def named(self) -> dict[str, Any]:
        """The fields that the request named, with their values."""
        return {name: getattr(self, name) for name in self.model_fields_set}


def _step(step: str | int) -> str:
    """A part of the way to a value inside a field."""
    return f"item {step + 1}" if isinstance(step, int) else step[:100]


def _sentence(title: str, error: ErrorDetails, least: int) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{title} is unknown"
    if kind in ("missing", "string_too_short"):
        return f"{title} is required" if least <= 1 else f"{title} must be at least {least} characters"
    if kind == "string_too_long":
        return f"{title} must be at most {context['max_length']} characters"
    if kind in ("too_long", "too_short"):
        bound = "most" if kind == "too_long" else "least"
        return f"{title} must have at {bound} {context.get('max_length', context.get('min_length'))} items"
    if kind == "greater_than_equal":
        return f"{title} must be at least {context['ge']}"
    if kind == "less_than_equal":
        return f"{title} must be at most {context['le']}"
    if kind == "literal_error":
        return f"{title} must be one of {context['expected']}"
    if kind == "value_error":
        sentence = str(context["error"])
        return sentence if sentence.startswith(title) else f"{title} {sentence}"
    if kind in _TYPE_NAMES:
        return f"{title} must be {_TYPE_NAMES[kind]}"
    return f"{title}: {error['msg']}"
