"""Settings are checked on birth, documented, free of heavy imports, and fingerprinted."""

import dataclasses
import json
import subprocess
import sys

import pytest

from histocli.base.errors import InvalidOption
from histocli.base.units import MPP_RANGE
from histocli.config.common import Execution, as_dict, check_mpp, config_hash
from histocli.config.evaluate import EvaluateConfig
from histocli.config.export import ExportConfig
from histocli.config.generate import GenerateConfig
from histocli.config.info import InfoConfig
from histocli.config.pack import PackConfig
from histocli.config.refine import RefineConfig
from histocli.config.run import RunConfig
from histocli.config.segment import SegmentConfig
from histocli.config.train import TrainConfig

ALL = (
    Execution,
    EvaluateConfig,
    ExportConfig,
    GenerateConfig,
    InfoConfig,
    PackConfig,
    RefineConfig,
    RunConfig,
    SegmentConfig,
    TrainConfig,
)

WRONG = [
    (EvaluateConfig, "mpp", 9.0, "--mpp"),
    (EvaluateConfig, "radius_um", 0.0, "--radius-um"),
    (EvaluateConfig, "tolerance_um", float("nan"), "--tolerance-um"),
    (EvaluateConfig, "border", "cut", "--border"),
    (EvaluateConfig, "resample", "pixel", "--resample"),
    (EvaluateConfig, "maximum", (("pq", 1.0),), "--max"),
    (EvaluateConfig, "realism_patches", 3, "--realism-patches"),
    (Execution, "on_error", "ignore", "--on-error"),
    (Execution, "workers", -1, "--workers"),
    (GenerateConfig, "n", 0, "--n"),
    (GenerateConfig, "patch_px", 31, "--patch-px"),
    (GenerateConfig, "patch_px", 4096, "--patch-px"),
    (GenerateConfig, "mpp", 0.04, "--mpp"),
    (GenerateConfig, "mpp", float("nan"), "--mpp"),
    (GenerateConfig, "reference_mpp", 6.0, "mpp"),
    (GenerateConfig, "seed", -1, "--seed"),
    (GenerateConfig, "rounds", -1, "--rounds"),
    (RunConfig, "slide_mpp", 9.0, "--mpp"),
    (RunConfig, "size", "XL", "--size"),
    (RunConfig, "time_budget_s", 0.0, "--time-budget"),
    (RefineConfig, "steps", 0, "--steps"),
    (RefineConfig, "batch", 1, "--batch"),
    (RefineConfig, "identity", -1.0, "--identity"),
    (RefineConfig, "style", float("nan"), "--style"),
    (RefineConfig, "proof", 1.1, "--proof"),
    (RefineConfig, "edits", "glass", "--edits"),
    (RefineConfig, "objective", "beauty", "--objective"),
    (RefineConfig, "reference_mpp", 0.01, "--mpp"),
    (RefineConfig, "time_budget_s", 0.0, "--time-budget"),
    (RefineConfig, "seed", -1, "--seed"),
    (TrainConfig, "size", "XL", "--size"),
    (TrainConfig, "targets", "stars", "--targets"),
    (TrainConfig, "hard", "style", "--hard"),
    (TrainConfig, "fresh_per_step", 0.0, "--fresh-per-step"),
    (TrainConfig, "steps", 0, "--steps"),
    (TrainConfig, "batch", 0, "--batch"),
    (TrainConfig, "crop_px", 16, "--crop-px"),
    (TrainConfig, "crop_px", 40, "--crop-px"),
    (TrainConfig, "learning_rate", 0.0, "--learning-rate"),
    (TrainConfig, "learning_rate", float("nan"), "--learning-rate"),
    (TrainConfig, "validation", 1.0, "--validation"),
    (TrainConfig, "contrast_quantile", 1.0, "--contrast-quantile"),
    (TrainConfig, "contrast_quantile", float("nan"), "--contrast-quantile"),
    (TrainConfig, "rounds", 0, "--rounds"),
    (TrainConfig, "time_budget_s", 0.0, "--time-budget"),
    (TrainConfig, "time_budget_s", float("nan"), "--time-budget"),
    (TrainConfig, "seed", -1, "--seed"),
    (SegmentConfig, "formats", (), "--format"),
    (SegmentConfig, "formats", ("jpeg",), "--format"),
    (SegmentConfig, "tile_px", 100, "--tile-px"),
    (SegmentConfig, "tissue", "maybe", "--tissue"),
    (SegmentConfig, "max_memory", 0.1, "--max-memory"),
    (SegmentConfig, "shard", "3/2", "--shard"),
    (ExportConfig, "formats", ("ome-zarr",), "--format"),
    (ExportConfig, "formats", (), "--format"),
    (ExportConfig, "seed", -1, "--seed"),
    (ExportConfig, "region", (0, 0, 5, 5), "--region"),
    (SegmentConfig, "mpp", 0.0, "--mpp"),
    (SegmentConfig, "views", 9, "--views"),
    (SegmentConfig, "quality", "good", "--quality"),
    (PackConfig, "patch_px", 8, "--patch-px"),
    (PackConfig, "mpp", -1.0, "--mpp"),
    (EvaluateConfig, "minimum", (("beauty", 0.5),), "--min"),
    (EvaluateConfig, "bootstrap", -1, "--bootstrap"),
    (InfoConfig, "sheet_patches", 0, "--sheet-patches"),
    (InfoConfig, "seed", -1, "--seed"),
]


@pytest.mark.parametrize(("config", "field", "value", "option"), WRONG)
def test_what_makes_no_sense_is_refused_by_name(config, field, value, option):
    with pytest.raises(InvalidOption, match=option) as refused:
        config(**{field: value})
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "goes_on"),
    [
        ({}, True),
        ({"resume": True}, True),
        ({"resume": False}, False),
        ({"overwrite": True}, False),
    ],
)
def test_unfinished_outputs_are_gone_on_with_unless_the_user_says_otherwise(given, goes_on):
    assert Execution(**given).goes_on is goes_on


def test_resume_and_overwrite_exclude_each_other():
    with pytest.raises(InvalidOption, match="give one"):
        Execution(resume=True, overwrite=True)


@pytest.mark.parametrize("config", ALL)
def test_defaults_are_sane_frozen_documented_and_plain(config):
    made = config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, dataclasses.fields(made)[0].name, None)
    assert json.loads(json.dumps(as_dict(made), allow_nan=False)).keys() == {
        field.name for field in dataclasses.fields(made)
    }
    for field in dataclasses.fields(config):
        assert field.metadata["option"].help, field.name


def test_pixel_sizes_a_microscope_can_have():
    for mpp in (None, *MPP_RANGE, 0.25):
        check_mpp(mpp)


def test_the_fingerprint_follows_settings_and_inputs_and_nothing_else():
    base = config_hash(GenerateConfig(), references=["a", "b"])
    assert base == config_hash(GenerateConfig(), references=["a", "b"])
    others = [
        config_hash(GenerateConfig(seed=1), references=["a", "b"]),
        config_hash(GenerateConfig(), references=["b", "a"]),
        config_hash(GenerateConfig(), references=["a"]),
        config_hash(GenerateConfig()),
    ]
    assert len({base, *others}) == 5
    assert config_hash(GenerateConfig(), a=1, b=2) == config_hash(GenerateConfig(), b=2, a=1)


def test_settings_load_nothing_heavy():
    modules = ", ".join(
        f"histocli.config.{name}"
        for name in ("common", "evaluate", "generate", "info", "pack", "segment", "train")
    )
    program = (
        f"import sys, {modules}; print(sorted({{'torch', 'numpy', 'zarr', 'cv2'}} & "
        "set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == "[]"


def test_quality_stands_for_views_and_backend_unless_these_are_given():
    def means(**settings):
        config = SegmentConfig(**settings)
        return config.runner, config.orientations

    assert means() == means(quality="standard") == ("torch", 1)
    assert means(quality="fast") == ("auto", 1)
    assert means(quality="best") == ("torch", 4)
    assert means(quality="best", views=8, backend="openvino") == ("openvino", 8)
    # workers of a cluster may differ from the machine that would be measured
    assert means(quality="fast", scheduler="tcp://a:1") == ("torch", 1)
    # what gives the same labels has the same hash
    labels = {
        name: SegmentConfig(quality=name).of_labels() for name in ("fast", "standard", "best")
    }
    assert labels["fast"] == labels["standard"] != labels["best"]
    assert labels["best"] == SegmentConfig(views=4).of_labels()


def test_a_run_goes_on_from_the_box_where_it_fits():
    def begins(**settings):
        config = RunConfig(**settings).train_config(None)
        return config.init, config.teacher

    assert begins() == ("box:S", "box:T")
    assert begins(self_training=False) == ("box:S", None)  # a teacher needs references
    for other in ({"box": False}, {"mpp": 0.5}, {"size": "L"}):
        assert begins(**other) == (None, None)
