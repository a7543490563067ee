"""The fields of Config: how their limits are declared and checked, and how values take their type."""

import dataclasses
import math
import typing
from collections.abc import Collection

from utils.errors import InputError, check_choice

SMALLEST = 1e-12  # the least value of a setting that must be greater than zero


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


def coerce(field: dataclasses.Field, value):
    """``value`` as the field's type, or InputError."""
    name, field_type = field.name, typing.cast(typing.Any, field.type)
    if str(value) == "None" and "none" in field.metadata.get("choices", ()):
        return "none"
    if value is None:
        raise InputError(f"{name}=None is no value; leave {name} out to have the preset's.")
    try:
        if typing.get_origin(field_type) is tuple:
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(str(part).strip() for part in parts if str(part).strip())
        if field_type is bool:
            return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
        is_fraction = field_type is int and (isinstance(value, bool) or float(value) != int(float(value)))
        if is_fraction or (field_type is float and not math.isfinite(float(value))):
            raise ValueError
        return int(float(value)) if field_type is int else field_type(value)
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError):
        names = {int: "a whole number", float: "a number", bool: "True or False"}
        expected = names.get(field_type, "names separated by commas")
        raise InputError(f"{name}={value!r} cannot be used; it must be {expected}.") from None
