"""Parameters of notebook 02 as users write them: options, a YAML file, and values that stand for several."""

import argparse
import dataclasses
import re
from pathlib import Path

import yaml

from utils.config import Config, InputError, check_names

SINGLE = ("run", "output_dir", "resume_from")  # a comma in these is part of the name
TYPES = {field.name: field.type for field in dataclasses.fields(Config)}


def make_parser(prog: str, options: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """A parser of ``-p NAME VALUE``, as for papermill; ``parse_arguments`` reads ``--NAME VALUE`` too."""
    usage = f"%(prog)s [-p NAME VALUE ...] [--NAME VALUE ...] {options}"
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog, usage, description, epilog, formatter_class=layout, allow_abbrev=False
    )
    text = "set a field of Config, as for papermill; --NAME VALUE does the same"
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=text)
    return parser


def parse_arguments(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, dict[str, str]]:
    """The parser's own options, and the parameters by name."""
    options, words = parser.parse_known_args()
    return options, parse_options(words) | dict(options.p)


def parse_options(words: list[str]) -> dict[str, str]:
    """Read ``--name value`` and ``--name=value``; dashes in names stand for underscores."""
    parameters, words = {}, list(words)
    while words:
        word = words.pop(0)
        if not re.match(r"--\w", word):
            raise InputError(
                f"{word!r} has no name; write --NAME VALUE or -p NAME VALUE, such as --fold 0-4."
            )
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if not equals:
            if not words or re.match(r"--\w", words[0]):
                check_names([name])  # a mistyped name is the likelier mistake
                raise InputError(f"{word} has no value; write {word} VALUE.")
            value = words.pop(0)
        parameters[name] = value
    return parameters


def read_yaml(path: str) -> dict:
    """The parameters in a YAML file: names and values; a list of values makes a grid."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        if alias := next((token for token in yaml.scan(text) if isinstance(token, yaml.AliasToken)), None):
            # each repeats what it names, and aliases of aliases fill any memory
            line = alias.start_mark.line + 1
            raise InputError(f"{path} has an alias, *{alias.value}, in line {line}; write out what it names.")
        parameters = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})."
        ) from None
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2020-13-45
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path} is not YAML{line}; write NAME: VALUE.") from None
    if not isinstance(parameters, dict) or not all(isinstance(name, str) for name in parameters):
        raise InputError(f"{path} holds no parameters; write a line NAME: VALUE for each.")
    return parameters


def parse_values(name: str, value) -> list:
    """The values of one parameter: "1,2,5-7", "a,b", a list from YAML, or the value itself."""
    plural = str(TYPES[name]).startswith("tuple")
    if value is None:  # an empty value in YAML, which Config refuses unless it means "none"
        return [value]
    if name in SINGLE:
        if isinstance(value, list):
            raise InputError(f"{name}={value!r} cannot be used; it takes one value.")
        values: list = [str(value)]
    elif isinstance(value, list):
        values = [value] if plural and not any(isinstance(item, list) for item in value) else value
        values = [",".join(map(str, item)) if isinstance(item, list) else item for item in values]
    elif not isinstance(value, str) or plural:
        values = [value]
    else:
        values = [part.strip() for part in value.split(",") if part.strip()]
        if TYPES[name] is int:
            values = [number for part in values for number in parse_range(name, part)]
    if not values:
        raise InputError(f"{name} has no value; leave it out, or name one.")
    return values


def parse_range(name: str, part: str) -> list:
    """The numbers of "5-7"; anything else as it is."""
    ends = re.fullmatch(r"(\d+)-(\d+)", part)
    if not ends:
        return [part]
    first, last = map(int, ends.groups())
    if first > last:
        raise InputError(f"{name}={part} runs backwards; write {last}-{first}.")
    if last - first > 10_000:
        raise InputError(f"{name}={part} is too many values; name at most 10,000.")
    return list(range(first, last + 1))
