"""Writes ``docs/commands/reference.md``, all options of all commands, from the program itself.

python docs/site/reference.py
"""

from pathlib import Path

from typer.main import get_command

from histocli.cli.app import EXIT_CODES, app
from histocli.config.options import PANELS

PAGE = Path(__file__).parents[1] / "commands" / "reference.md"
HEAD = """\
# All options

Every option of every command, as `histosynth COMMAND --help` shows them. This page is written by
`docs/site/reference.py`. The environment variable of `--patch-px` is `HISTOSYNTH_PATCH_PX`, and so
on, except where another is named. What options have in common is in
[what commands have in common](README.md).
"""


def cell(text):
    """Return text for a cell of a table."""
    plain = " ".join(str(text or "").split())
    for raw, escaped in (("|", "\\|"), ("<", "&lt;"), ("*", "\\*"), ("_", "\\_")):
        plain = plain.replace(raw, escaped)
    return plain


def code(text):
    """Return words of code for a cell of a table."""
    return f"`{text}`".replace("|", "\\|")


def row(option):
    """Return the row of an option."""
    names = ", ".join(sorted(option.opts, key=len) + list(option.secondary_opts))
    value = "" if option.is_flag or option.count else f" {option.metavar}"
    default = option.default
    known = default not in (None, "", (), False) and not callable(default)
    written = option.opts[0] if default is True else default
    notes = "required" if option.required else code(written) if known else ""
    flag = max(option.opts, key=len).lstrip("-")
    expected = f"HISTOSYNTH_{flag.replace('-', '_').upper()}"
    other = f" Variable: {code(option.envvar)}." if option.envvar not in (None, expected) else ""
    return f"| {code(names + value)} | {cell(option.help)}{other} | {notes} |"


def section(name, command):
    """Yield the lines of a command."""
    yield from ("", f"## {name}", "")
    for paragraph in (command.help or "").split("\n\n"):
        text = " ".join(paragraph.split())
        sentence = text.removeprefix("Example: ")
        yield from (f"Example: `{sentence}`" if sentence != text else text, "")
    for each in command.params:
        if each.param_type_name == "argument":
            yield f"- {code(each.metavar or each.name.upper())}: {cell(each.help)}"
    options = [
        each
        for each in command.params
        if each.param_type_name == "option" and not getattr(each, "hidden", False)
    ]
    for panel in PANELS:
        rows = [row(each) for each in options if each.rich_help_panel == panel]
        if rows:
            yield from ("", f"**{panel}**", "", "| option | what it does | default |")
            yield from ("|---|---|---|", *rows)


def reference():
    """Return the page."""
    lines = [HEAD, EXIT_CODES]
    for name, command in get_command(app).commands.items():
        lines += section(name, command)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
