"""Strict building of configs: an unknown key or a value of the wrong type is an error, with a suggestion."""

from collections.abc import Mapping
from dataclasses import field
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bertsmith.errors import UserError, suggestion

Config = TypeVar("Config")


def setting(default: Any, help_text: str) -> Any:
    """Declare a field of a config with its line of help."""
    return field(default=default, metadata={"help": help_text})


def check_value(name: str, value: Any, expected: Any) -> Any:
    """Check one value from outside against a field's type.

    Returns:
        The value; a whole number becomes a float and a list a tuple where the field asks for it.

    Raises:
        UserError: The value has another type, or is not among the choices.
    """
    if get_origin(expected) in (Union, UnionType):
        if value is None:
            return None
        expected = next(option for option in get_args(expected) if option is not NoneType)
    if get_origin(expected) is Literal:
        if value not in get_args(expected):
            raise UserError(f"{name} is {value!r}{suggestion(str(value), get_args(expected))}")
        return value
    if get_origin(expected) is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise UserError(f'{name} is {value!r}; give a list of strings, such as ["my_texts/"]')
        return tuple(value)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{name} has too many digits; give a smaller number") from None
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise UserError(f"{name} is {value!r}; give a value of type {expected.__name__}")
    return value


def from_mapping(cls: type[Config], values: Mapping[str, Any], prefix: str = "") -> Config:
    """Build a config from a parsed table, strictly.

    Raises:
        UserError: A key is unknown, or a value has the wrong type. A misspelt
            key that silently kept its default would only be noticed after the run.
    """
    types = get_type_hints(cls)
    for key in values:
        if key not in types:
            raise UserError(f"unknown setting '{prefix}{key}'{suggestion(key, types)}")
    return cls(**{key: check_value(f"{prefix}{key}", value, types[key]) for key, value in values.items()})
