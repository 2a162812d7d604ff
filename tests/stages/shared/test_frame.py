"""The frame of every command: what is there is kept, and a failure leaves all as it was."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from histocli.base.distributed import Team
from histocli.base.errors import InvalidInput, StoreExists
from histocli.base.formats import FORMATS
from histocli.config.common import Execution
from histocli.exports.pictures import write_png
from histocli.stages.shared.frame import Plan, carry_out
from histocli.stages.shared.results import StageResult, Stopwatch
from histocli.stores import models, patches
from histocli.stores.models import ModelHeader, write_model
from histocli.stores.provenance import Provenance
from histocli.stores.rerun import OutputLock

CONTRACTS = {
    "a.zarr": patches.CONTRACT,
    "a.safetensors": models.CONTRACT,
    "a.png": FORMATS["overlay"].contract,
}


@dataclass(frozen=True, kw_only=True)
class Toy(StageResult):
    """What a toy command reports."""

    made: int | None = None


class Broken(Exception):
    """What goes wrong while an output is made."""


class Command:
    """A toy command that makes one kind of output, and counts how often."""

    def __init__(self, out: Path, contract: str) -> None:
        self.out, self.contract = out, contract
        self.made: list[bool] = []
        """Whether each making resumed."""

    def run(self, fingerprint="aa", *, breaks=False, refuses=False, members=None, **execution):
        def planned():
            if refuses:
                raise InvalidInput("a bad input")
            return Toy(output=self.out.name)

        def make(work):
            self.made.append(work.resume)
            self.write(fingerprint, work.resume, breaks)
            return replace(work.planned, made=len(self.made))

        plan = Plan(
            out=self.out,
            contract=self.contract,
            fingerprint=fingerprint,
            planned=planned,
            found=lambda: Toy(output=self.out.name, made=0),
            watch=Stopwatch(),
        )
        return carry_out(plan, Execution(**execution), make, members or Team())

    def write(self, fingerprint, resume, breaks):
        made_by = Provenance(
            contract=self.contract, command="toy", config={}, config_hash=fingerprint
        )
        if self.contract == patches.CONTRACT:
            record = patches.ReferenceRecord(name="a", sha256="00", mpp=0.5, mpp_source="given")
            with patches.PatchStoreWriter(
                self.out, n=1, patch_px=32, mpp=0.5, origin="initial", references=[record],
                provenance=made_by,
            ) as writer:  # fmt: skip
                if breaks:
                    raise Broken
                image, labels = np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 32, 32), np.int32)
                writer.write(range(1), image, labels, np.ones(1, np.float32), np.zeros(1, np.int32))
                writer.finish()
            return
        if breaks:
            raise Broken
        if self.contract == models.CONTRACT:
            with pytest.raises(StoreExists, match="another process"):
                OutputLock(self.out)
            write_model(
                self.out, {}, ModelHeader(architecture={}, mpp=0.5, config_hash=fingerprint)
            )
        else:
            image = np.zeros((4, 4, 3), np.uint8)
            write_png(self.out, image, made_by.to_json() | {"complete": True})


@pytest.fixture(params=CONTRACTS)
def command(request, tmp_path):
    return Command(tmp_path / "out" / request.param, CONTRACTS[request.param])


def files(folder):
    """All files with their bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_output_is_made_once_and_then_skipped(command):
    first = command.run()
    assert (first.status, first.made) == ("done", 1)
    assert first.seconds > 0
    before = files(command.out.parent)
    again = command.run()
    assert (again.status, again.made) == ("skipped", 0)
    assert command.run(dry_run=True, refuses=True).status == "skipped"  # inputs are not looked at
    assert command.made == [False]
    assert files(command.out.parent) == before


def test_other_settings_need_overwrite(command):
    command.run()
    before = files(command.out.parent)
    with pytest.raises(StoreExists, match="--overwrite"):
        command.run("bb")
    assert files(command.out.parent) == before
    assert command.run("bb", overwrite=True).made == 2
    assert command.run("bb").status == "skipped"


def test_a_dry_run_looks_at_inputs_and_writes_nothing(command):
    planned = command.run(dry_run=True)
    assert (planned.status, planned.made) == ("planned", None)
    with pytest.raises(InvalidInput):
        command.run(dry_run=True, refuses=True)
    assert command.made == []
    assert not command.out.parent.exists()


def test_what_fails_leaves_the_old_output_and_no_lock(command):
    command.run()
    before = files(command.out) if command.out.is_dir() else command.out.read_bytes()
    with pytest.raises(InvalidInput):
        command.run("bb", overwrite=True, refuses=True)
    with pytest.raises(Broken):
        command.run("bb", overwrite=True, breaks=True)
    after = files(command.out) if command.out.is_dir() else command.out.read_bytes()
    assert after == before
    assert not list(command.out.parent.glob(".*.lock"))


def test_what_is_not_ours_is_left_alone(command):
    command.out.parent.mkdir()
    command.out.write_bytes(b"a person's own")
    with pytest.raises(StoreExists, match="not made by histosynth"):
        command.run(overwrite=True)
    assert command.out.read_bytes() == b"a person's own"
    assert command.made == []


def test_a_partial_output_goes_on_when_it_is_resumed(tmp_path):
    command = Command(tmp_path / "a.zarr", patches.CONTRACT)
    with pytest.raises(Broken):
        command.run(breaks=True)
    with pytest.raises(StoreExists, match="other settings"):
        command.run("bb", resume=True)
    assert command.run().status == "done"
    assert command.made == [False, True]


def test_processes_hear_what_the_first_one_decided(command):
    """The second process neither looks at the output nor locks it."""

    class Second(Team):
        def gather(self, value):
            assert value is None
            return ["skip", None]

    command.out.parent.mkdir()
    command.out.write_bytes(b"in the way, but for the first process to see")
    assert command.run(members=Second(rank=1, size=2)).status == "skipped"
