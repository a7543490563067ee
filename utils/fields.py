"""What stands at a field of Config besides its type and default, and is checked there."""

import dataclasses
import math
import typing
from collections.abc import Collection

from utils.errors import InputError, check_choice


def choice(default: str, *others: str) -> typing.Any:
    """A field whose value is ``default`` or one of ``others``."""
    return dataclasses.field(default=default, metadata={"choices": (default, *others)})


def number(
    default: float, *, least: float = 0, most: float = math.inf, schedules: Collection[str] = ()
) -> typing.Any:
    """A numeric field with inclusive limits; ``schedules``: those that read it, where not all do."""
    metadata = {"limits": (least, most), "schedules": schedules}
    return dataclasses.field(default=default, metadata=metadata)


def check_field(field: dataclasses.Field, value, schedule: str) -> None:
    """Raise InputError for a ``value`` that the field does not take, or that the schedule would not read."""
    if "choices" in field.metadata:
        check_choice(field.name, value, field.metadata["choices"])
    if "limits" in field.metadata:
        _check_limits(field.name, value, *field.metadata["limits"])
    readers = field.metadata.get("schedules")
    if readers and value != field.default and schedule not in readers:
        raise InputError(
            f"{field.name}={value:g} does nothing with schedule={schedule}; set schedule to "
            f"{' or '.join(readers)}, or leave {field.name} out."
        )


def _check_limits(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        expected = f"{least:g} or more" if math.isinf(most) else f"from {least:g} to {most:g}"
        raise InputError(f"{name}={value:g} is out of range; it must be {expected}.")
