"""A process that begins itself anew has not imported the command line before."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["histocli.cli.start", "histocli.__main__"])
def test_a_process_that_begins_again_has_not_imported_the_command_line(module):
    code = (
        f"import sys, {module};"
        "assert not {'typer', 'rich', 'histocli.cli.app'} & set(sys.modules), list(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
