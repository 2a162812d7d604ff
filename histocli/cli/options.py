"""The decorator ``command``, which makes Typer commands from functions and config dataclasses.

A command is a function with ``@command()``. Its parameters are its positionals, its own options
(``Annotated[type, Option(...)]``), its settings (config dataclasses), an ``Execution`` and a
``Screen``. The decorator gives Typer an option for each own option, for each field of the
dataclasses and for the options that every command has. When the command runs, it builds the
dataclasses from the typed values and calls the function.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from histocli.base.errors import GateNotMet, InvalidOption
from histocli.cli.console import Screen
from histocli.cli.settings import PREFIX, print_settings, take_config_file, unknown_variables
from histocli.config.common import OF_TRAININGS, Execution
from histocli.config.options import FILES, PANELS, RUN, Option

INPUTS = "Files, folders, quoted globs, @list.txt, or - for paths on stdin."
MODELS = (".safetensors",)
IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".svs")
RESULTS = (".zarr", ".geojson", ".json", ".gz", ".csv", ".parquet")
STOP_AFTER = Option(
    "Save a checkpoint after this many steps and exit 75.",
    metavar="STEPS",
    panel=RUN,
    before="seed",
)
METAVARS = {int: "N", float: "NUMBER", Path: "PATH"}  # placeholders of options that name none


def environment_name(flag: str) -> str:
    """Return the environment variable of a flag: ``HISTOSYNTH_PATCH_PX`` for ``--patch-px``."""
    return PREFIX + flag.lstrip("-").replace("-", "_").upper()


def long_flag(name: str, option: Option) -> str:
    """Return the long flag of an option; of ``--weights/--no-weights``, only ``--weights``."""
    return (option.flag or "--" + name.replace("_", "-")).split("/")[0]


def typer_option(
    name: str, kind: Any, default: Any, option: Option, **extra: Any
) -> inspect.Parameter:
    """Return a parameter that Typer turns into an option, with an environment variable.

    ``name`` is the name of the parameter or of the field of the settings, ``kind`` the type of its
    value. A ``default`` of ``inspect.Parameter.empty`` makes the option required. ``extra`` holds
    further arguments of ``typer.Option``.
    """
    if option.repeatable:
        kind, default = list[str] | None, None
    elif option.parse is not None:
        kind = str if default is not None else str | None
        default = option.written or default
        default = ",".join(default) if isinstance(default, tuple) else default
    flag = long_flag(name, option)
    about = typer.Option(
        *([option.short] if option.short else []),
        option.flag or flag,
        help=option.help,
        metavar=option.metavar or _placeholder(kind),
        rich_help_panel=option.panel,
        envvar=environment_name(flag),
        autocompletion=_completion(option.metavar or ""),
        **{"show_default": default is not None, **extra},
    )
    return parameter(name, Annotated[kind, about], default)


def _placeholder(kind: Any) -> str | None:
    """Return what ``--help`` shows for a value of a type; None for switches."""
    kinds = [kind, *get_args(kind)]
    return next((word for each, word in METAVARS.items() if each in kinds), None)


def _completion(metavar: str) -> Callable[[str], list[str]] | None:
    """Return a function that completes the words of a metavar such as ``stop|continue``."""
    words = [word.partition("[")[0] for word in metavar.split("|")]
    if len(words) < 2 or any(word.isupper() and len(word) > 1 for word in words):
        return None  # one placeholder, or placeholders such as FILE|FOLDER
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def parameter(name: str, kind: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    """Return a keyword-only parameter of a function signature."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


# options of every command that takes config dataclasses
FILE = "Settings; flags and HISTOSYNTH_* variables win over them."
CONFIG = Option(FILE, metavar="FILE.yaml", panel=FILES)
PRINT_CONFIG = Option("Print the settings in force as YAML, and stop.", panel=RUN)
SETTINGS_FILE = (
    typer_option("config", Path | None, None, CONFIG, is_eager=True, callback=take_config_file),
    typer_option("print_config", bool, False, PRINT_CONFIG),
)

# options of every command
JSON = Option("One JSON object a line on stdout.", flag="--json", panel=FILES)
VERBOSE = Option("Say more, and name every file; -vv says all.", short="-v", panel=RUN)
TALK = (
    typer_option("as_json", bool, False, JSON),
    typer_option("verbose", int, 0, VERBOSE, count=True, show_default=False),
    typer_option("quiet", bool, False, Option("Errors only.", short="-q", panel=RUN)),
)


def command(
    *,
    example: str = "",
    without: Collection[str] = (),
    overwrite_help: str | None = None,
    check: Callable[..., None] | None = None,
    trains: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that makes a Typer command; the docstring of this module says how.

    ``example`` is a call of the command that ``--help`` shows and the tests run. Fields of
    ``Execution`` in ``without`` get no options, nor do ``OF_TRAININGS`` unless it ``trains``.
    ``overwrite_help`` replaces the help text of ``--overwrite``. ``check`` raises ``InvalidOption``
    where options contradict each other; it gets all arguments of the command by name, but not
    ``Execution`` and ``Screen``, also with ``--print-config``.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters = inspect.signature(function).parameters.values()
        taken = [each for each in parameters if each.annotation is not Screen]
        own = [each for each in taken if not is_dataclass(each.annotation)]
        configs = {each.name: each.annotation for each in taken if each not in own}

        @functools.wraps(function)
        def run(context: typer.Context, **typed: Any) -> None:
            screen: Screen = context.obj
            screen.configure(**{each.name: typed[each.name] for each in TALK})
            if context.parent is not None:
                for message in unknown_variables(context.parent.command.commands):  # type: ignore[attr-defined]
                    screen.warn(message, message)
            values = {each.name: typed[each.name] for each in own}
            _refuse_empty_paths(context, values)
            for name, kind in configs.items():
                if kind is Execution and check is not None:
                    check(**values)
                values[name] = read_fields(kind, typed)
            if typed.get("print_config"):
                print_settings(context)
                return
            finished = False
            try:
                with screen.at_work(str(context.info_name)):
                    function(**values, screen=screen)
                finished = True
            except GateNotMet:
                finished = True
                raise
            finally:
                screen.conclude(finished=finished)
            screen.raise_if_any_failed()

        sentence, *more = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        run.__doc__ = "\n\n".join([sentence, *([f"Example: {example}"] if example else []), *more])
        run.example = example  # type: ignore[attr-defined]
        shown = _shown(own, configs.values(), without, overwrite_help, trains=trains)
        run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in shown}
        return run

    return decorate


def _refuse_empty_paths(context: typer.Context, values: dict[str, Any]) -> None:
    """Refuse a path that was typed as an empty word: it would mean the working folder.

    A shell writes one where a variable is not set.
    """
    typed = {name for name, value in values.items() if isinstance(value, Path)}
    flags = {option: each.name for each in context.command.params for option in each.opts}
    for flag, name in flags.items():
        empty = (flag, "") in pairwise(sys.argv) or f"{flag}=" in sys.argv
        if name in typed and empty and str(values[name]) == ".":
            raise InvalidOption(
                f"{flag} must name a path, got an empty word; is a variable of the calling script "
                "not set? Write . for the working folder"
            )


def _shown(
    own: Sequence[inspect.Parameter],
    configs: Collection[type[Any]],
    without: Collection[str],
    overwrite_help: str | None,
    *,
    trains: bool,
) -> list[inspect.Parameter]:
    """Return the parameters that Typer reads, in the order of ``--help``."""
    missing = without if trains else (*without, *OF_TRAININGS)
    shown = [parameter("context", typer.Context)]
    placed: list[tuple[str, inspect.Parameter]] = []  # name of the next parameter, and parameter

    def add(name: str, kind: Any, default: Any, about: Option) -> None:
        made = typer_option(name, kind, default, about)
        if about.before is None:
            shown.append(made)
        else:
            placed.append((about.before, made))

    for each in own:
        kind, about = get_args(each.annotation)
        if isinstance(about, Option):
            add(each.name, kind, each.default, about)
        else:
            shown.append(each.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    for config in configs:
        types = get_type_hints(config)
        for field in fields(config):
            about = field.metadata["option"]
            if field.name == "overwrite" and overwrite_help is not None:
                about = replace(about, help=overwrite_help)
            if config is not Execution or field.name not in missing:
                add(field.name, types[field.name], field.default, about)
    for before, made in placed:
        shown.insert([each.name for each in shown].index(before), made)
    everything = [*shown, *(SETTINGS_FILE if configs else ()), *TALK]
    return sorted(everything, key=_panel_number)  # stable: within a panel the order stays


def _panel_number(shown: inspect.Parameter) -> int:
    """Return the place of a parameter's panel in ``--help``; positionals come before all panels."""
    details = get_args(shown.annotation)[1:]
    panel = getattr(details[0], "rich_help_panel", None) if details else None
    return -1 if panel is None else PANELS.index(panel)


def read_fields(config: type[Any], typed: Mapping[str, Any]) -> Any:
    """Build a config dataclass from the typed values; other fields keep their defaults."""
    read = {}
    for field in fields(config):
        about, value = field.metadata["option"], typed.get(field.name)
        if value is not None:
            flag = long_flag(field.name, about)
            read[field.name] = about.parse(value, flag) if about.parse else value
    return config(**read)


def check_stop_after(stop_after: int | None, **_: Any) -> None:
    """Raise ``InvalidOption`` unless ``--stop-after`` is None or at least one step."""
    if stop_after is not None and stop_after < 1:
        raise InvalidOption(f"--stop-after must be at least 1 step, got {stop_after}")


def check_output(out: Path, suffix: str, what: str) -> None:
    """Raise ``InvalidOption`` unless the name of an output ends with the suffix of its kind."""
    if out.suffix.lower() != suffix:
        # "" and "/" have no name that could be kept
        name = out.with_suffix(suffix).name if out.name else f"out{suffix}"
        raise InvalidOption(f"--out {out}: {what} are {suffix}; name it {name}")


def check_folder(out: Path | None) -> None:
    """Raise ``InvalidOption`` if the folder for results is named like a file or store."""
    if out is not None and out.suffix.lower() in (*MODELS, *IMAGES, *RESULTS) and not out.is_dir():
        raise InvalidOption(
            f"--out {out}: names the folder for the results, whose files are named after the "
            f"slides; name it {out.stem}"
        )


def refuse_by_suffix(words: Sequence[str], what: str, meant: Mapping[tuple[str, ...], str]) -> None:
    """Refuse positionals whose suffix shows that they are files of another kind.

    For the message, ``what`` says what the command takes, such as "segment takes images", and
    ``meant`` maps the refused suffixes to advice. Raises ``InvalidOption``.
    """
    for word in words:
        for suffixes, remedy in meant.items():
            if word.lower().endswith(suffixes):
                raise InvalidOption(f"{word}: {what}; {remedy}")
