"""``histosynth doctor``: what works on this machine, and what to do about what does not."""

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from histocli.base.errors import OutOfResources
from histocli.cli.console import Screen
from histocli.cli.options import command
from histocli.config.options import ESSENTIAL, Option

if TYPE_CHECKING:
    from histocli.stages.doctor import Finding

MOST_ROWS = 10  # of a table whose rows are all shown


@command(example="histosynth doctor")
def doctor(
    screen: Screen,
    out: Annotated[
        Path,
        Option(
            "Folder where outputs are to go: its space and speed are measured.",
            short="-o",
            metavar="FOLDER",
            panel=ESSENTIAL,
        ),
    ] = Path("."),
) -> None:
    """Examine installation, devices, readers, memory and disk, and say what to do.

    The tables go to stderr, --json to stdout. The exit code is 0 where everything is usable.
    """
    from histocli.stages.doctor import doctor as run  # late: keeps --help free of torch

    result = run(out, track=screen.track)
    for group, findings in groupby(result.findings, key=lambda finding: finding.group):
        screen.table(group, ("", "", ""), _rows(list(findings)), numbers_from=3)
    if screen.as_json:
        screen.print_json(result.to_json())
    for each in result.findings:
        if each.advice:
            screen.say(f"{each.verdict}: {each.name}: {each.advice}")
    broken = [finding.name for finding in result.findings if finding.verdict == "broken"]
    if broken:
        raise OutOfResources(f"broken: {', '.join(broken)}; see above for what to do")
    screen.say("histosynth can be used here")


def _rows(findings: "list[Finding]") -> list[tuple[str, str, str]]:
    """Return verdict, name and finding as text; in a long list, what is well shares one row."""
    well = [each for each in findings if each.verdict == "ok"]
    shared = well if len(findings) > MOST_ROWS else []
    rows = [(str(each.verdict), each.name, each.found) for each in findings if each not in shared]
    if shared:
        rows.append(("ok", "", ", ".join(f"{each.name} {each.found}" for each in shared)))
    return rows
