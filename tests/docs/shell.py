"""Runs blocks of shell with bash, where ``histosynth`` needs no second to start.

A server imports the package once and forks for each call. The program ``histosynth`` that bash
finds hands its arguments, its folder, its environment and its three streams to the server, waits,
and returns the exit code. So pipes, quotes and ``set -e`` are those of bash.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import histocli

PROGRAM = """\
#!/bin/sh
exec "{python}" -IS "{caller}" "$@"
"""
CALLER = """\
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as call:
    call.connect({address!r})
    said = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(call, [len(said).to_bytes(8, "big")], [0, 1, 2])
    call.sendall(said)
    sys.exit(call.recv(1)[0])
"""
SHORT = {"--n": "8", "--steps": "2"}
"""Options that pages show with values for real work, and their values in tests."""
WITHOUT = ("--time-budget",)
"""Options that tests leave out, so that ``HISTOSYNTH_STEPS`` says how long a training takes."""


def shortened(words):
    """Return the words of a call for a run of seconds; all other words are kept."""
    short, words = [], iter(words)
    for word in words:
        if word in WITHOUT:
            next(words)
        elif word in SHORT:
            next(words)
            short += [word, SHORT[word]]
        else:
            short.append(word)
    return short


def serve(address):
    """Answer calls one after the other until the process is ended."""
    from histocli.cli.app import run

    for module in pkgutil.walk_packages(histocli.__path__, "histocli."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of optional packages
                importlib.import_module(module.name)
    os.fsync = lambda descriptor: None  # as in all tests: no test pulls the plug
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        while True:
            call, _ = door.accept()
            if os.fork() == 0:
                _answer(call, run)
            call.close()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)


def _answer(call, run):
    """Do the work of one call in the place of the caller."""
    head, streams, _, _ = socket.recv_fds(call, 8, 3)
    size = int.from_bytes(head, "big")
    said = b""
    while len(said) < size:
        said += call.recv(size - len(said))
    words, folder, environment = json.loads(said)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code = 1
    try:
        code = run(shortened(words))
        sys.stdout.flush()
    finally:
        sys.stderr.flush()
        call.sendall(bytes([code]))
        os._exit(code)


@contextlib.contextmanager
def shell(folder, variables):
    """Give a function that runs a text with bash in ``folder``, and returns what was shown.

    ``variables`` are added to the environment.
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as tools:  # the address has to be short
        yield from _serving(folder, Path(tools), variables)


def _serving(folder, tools, variables):
    """Start the server, give the function, and end the server."""
    address, program, caller = str(tools / "door"), tools / "histosynth", tools / "caller.py"
    caller.write_text(CALLER.format(address=address))
    program.write_text(PROGRAM.format(python=sys.executable, caller=caller))
    program.chmod(0o755)
    root = Path(__file__).parents[2]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HISTOSYNTH_")},
        **variables,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(root),
    }
    code = f"from tests.docs.shell import serve; serve({address!r})"
    server = subprocess.Popen([sys.executable, "-c", code], cwd=root, env=environment)

    def bash(text):
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )

    try:
        while not Path(address).exists():
            assert server.poll() is None
            time.sleep(0.05)
        yield bash
    finally:
        server.kill()
        server.wait()
