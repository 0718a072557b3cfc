"""An expression as a sentence in English: cron-descriptor's, and our own words where it has none."""

import re

from cron_descriptor import ExpressionDescriptor, Options

from wsp.cron.schedule.expression import parse, spelled_out, split

AT_REBOOT = "Each time the cron service starts"

_FIVE_FIELDS = 5
_NAMED = (3, 4)  # the places of month and day of week
_WEEKDAYS = re.compile(r", (?=[A-Z][a-z]+day through )")  # a range that it just appends, whatever the day of month
_LEADING_ZEROS = re.compile(r"\b0+(?=[0-9])", re.ASCII)


def describe(text: str, key: int | None = None) -> str:
    """Say when an expression is due, on a clock of 24 hours. `key` is the job's id, as for `parse`.

    Raises ExpressionError for what is no expression.
    """
    schedule = parse(text, key)
    if schedule.at_reboot:
        return AT_REBOOT
    written = split(spelled_out(text))
    parts = [
        _in_words(place, part, chosen)
        for place, (part, chosen) in enumerate(zip(written, schedule.canonical.split(), strict=True))
    ]
    options = Options()
    options.use_24hour_time_format = True
    options.locale_code = "en_US"  # else it is the language of whoever started the server
    # With six fields cron-descriptor takes the first one for the second.
    ordered = " ".join([*parts[_FIVE_FIELDS:], *parts[:_FIVE_FIELDS]])
    sentence = str(ExpressionDescriptor(ordered, options).get_description())
    if "*" not in (parts[2], parts[4]):
        sentence = _WEEKDAYS.sub(", or on ", sentence)
    if not schedule.days_either:
        sentence = sentence.replace(", or on ", ", and only if it is ")
    return sentence


def _in_words(place: int, part: str, chosen: str) -> str:
    """A field as cron-descriptor understands it best: as it was written, or its values one by one.

    It knows no `H`, is at a loss with steps within lists and with a weekday `07`, and of months and weekdays that have
    a step it says no names.
    """
    if chosen == "*" or part[:1] in ("H", "h") or ",H" in part.upper():
        return chosen
    if "/" in part and ("," in part or place in _NAMED):
        return chosen
    return _LEADING_ZEROS.sub("", part)
