"""Settings from a ``--config`` file, and their output with ``--print-config``.

An option takes its value from its flag, else its environment variable, else the file, else its
default. The file is YAML. Keys are option names, with - or _. A key at the top level applies to
every command that has the option. A section named after a command applies to that command alone
and takes precedence over the top level::

    seed: 3
    generate:
      n: 500
      patch-px: 256
    evaluate:
      min: [pq=0.55, dice=0.7]
"""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer

from histocli.base.errors import InputNotFound, InvalidInput, InvalidOption
from histocli.base.text import did_you_mean, printable

PREFIX = "HISTOSYNTH_"  # of the environment variables of all options
# options of the input of settings and the output of messages, which a file may not set
NOT_SETTINGS = frozenset({"help", "config", "print_config", "json", "verbose", "quiet"})


def option_key(parameter: Any) -> str:
    """Return an option's name in files: ``patch_px`` for ``--patch-px``."""
    return str(max(parameter.opts, key=len)).lstrip("-").replace("-", "_")


def options_of(command: Any) -> dict[str, Any]:
    """Return the options of a command that a file may set, by their keys in files."""
    options = [each for each in command.params if each.param_type_name == "option"]
    return {key: each for each in options if (key := option_key(each)) not in NOT_SETTINGS}


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises ``InputNotFound`` if the file is missing or is no text in UTF-8, and ``InvalidInput`` if
    its content is no YAML, or no mapping.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputNotFound(
            f"{path}: settings cannot be read ({printable(str(error))}); --config takes a YAML file"
        ) from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise InvalidInput(f"{path}: settings must be 'option: value' lines, got a {kind}")
    return {str(key): value for key, value in values.items()}


def _as_flag_value(value: Any) -> Any:
    """Return a YAML value as the text, or texts, that a user would type for it."""
    if isinstance(value, Mapping):
        return [f"{key}={item}" for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    return value if value is None or isinstance(value, bool) else str(value)


def known_are(keys: Iterable[str]) -> str:
    """Return the part of a message that lists all known keys."""
    return f"; known are {', '.join(sorted(keys))}"


def unknown_variables(commands: Mapping[str, Any]) -> list[str]:
    """Return a message for each ``HISTOSYNTH_*`` variable that no option of a command has."""
    known = {
        str(each.envvar)
        for command in commands.values()
        for each in command.params
        if getattr(each, "envvar", None)
    }
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    return [f"{name}: no option has this variable{did_you_mean(name, known)}" for name in unknown]


def defaults_for(
    values: Mapping[str, Any], command: str, commands: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """Pick the values of ``command`` from a file of settings, by parameter, for Click's
    ``default_map``.

    ``values`` is the content of the file at ``path``: keys of options, and sections named after one
    of all ``commands``. Raises ``InvalidOption`` if no command has an option of that key, if the
    command of a section lacks it, or if a section is no mapping.
    """
    known = {name: options_of(one) for name, one in commands.items()}
    shared = {key.replace("-", "_"): value for key, value in values.items() if key not in commands}
    everywhere = sorted({key for options in known.values() for key in options})
    for key in shared:
        if key not in everywhere:
            guess = did_you_mean(key, [*everywhere, *commands])
            raise InvalidOption(
                f"{path}: no command has an option {key!r}{guess or known_are(everywhere)}"
            )
    mine: dict[str, Any] = {}
    for name in commands:
        section = values.get(name)
        if section is None:
            continue
        if not isinstance(section, dict):
            raise InvalidOption(f"{path}: {name} must hold 'option: value' lines, got {section!r}")
        for key in (str(key).replace("-", "_") for key in section):
            if key not in known[name]:
                guess = did_you_mean(key, known[name]) or known_are(known[name])
                raise InvalidOption(f"{path}: {name} has no option {key!r}{guess}")
        if name == command:
            mine = {str(key).replace("-", "_"): value for key, value in section.items()}
    merged = {**{key: value for key, value in shared.items() if key in known[command]}, **mine}
    result = {}
    for key, value in merged.items():
        parameter = known[command][key]
        plain = _as_flag_value(value)
        if isinstance(plain, list) and not parameter.multiple:
            plain = ",".join(plain)
        elif parameter.multiple and plain is not None and not isinstance(plain, list):
            plain = [plain]
        result[parameter.name] = plain
    return result


def take_config_file(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of the ``--config`` file the defaults of the options of the command.

    Typer calls this before it reads the other options, because ``--config`` is eager.
    """
    if path is not None and context.parent is not None and not context.resilient_parsing:
        commands = context.parent.command.commands  # type: ignore[attr-defined]
        name = str(context.info_name)
        context.default_map = defaults_for(read_settings(path), name, commands, path)
    return path


def print_settings(context: typer.Context) -> None:
    """Print the settings in force on stdout, as YAML that ``--config`` reads."""
    import yaml

    options = options_of(context.command).items()
    values = {key: _plain(context.params[each.name]) for key, each in options}
    given = {key: value for key, value in values.items() if value is not None}
    content = {str(context.info_name): given}
    yaml.safe_dump(content, sys.stdout, sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    """Return the value of an option as a type that YAML can hold; None for an empty list."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(item) for item in value] or None
    return value
