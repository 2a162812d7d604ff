"""histosynth: from unlabelled H&E images to a nucleus segmenter, with nothing labelled by hand.

>>> import histocli
>>> found = histocli.Segmenter("box").segment("slide.tif")  # doctest: +SKIP
>>> found.labels, found.table, found.polygons  # doctest: +SKIP

The names of ``__all__`` are stable. Their modules are loaded when a name is first used, so that
``import histocli`` takes no time. Errors that a caller can cause are subclasses of
``HistosynthError`` (:mod:`histocli.base.errors`); their messages name settings by the flags of the
command line, which are the names of the fields of the configs.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "EvaluateConfig",
    "Execution",
    "GenerateConfig",
    "HistosynthError",
    "PackConfig",
    "Patches",
    "RefineConfig",
    "RunConfig",
    "SegmentConfig",
    "Segmentation",
    "Segmenter",
    "TrainConfig",
    "__version__",
    "compare",
    "doctor",
    "evaluate",
    "generate",
    "pack",
    "refine",
    "run",
    "segment",
    "train",
]

if TYPE_CHECKING:
    from histocli.api.files import doctor, run, segment
    from histocli.api.patches import Patches, generate, pack, refine
    from histocli.api.scoring import compare, evaluate
    from histocli.api.segmenter import Segmentation, Segmenter
    from histocli.api.training import train
    from histocli.base.errors import HistosynthError
    from histocli.config.common import Execution
    from histocli.config.evaluate import EvaluateConfig
    from histocli.config.generate import GenerateConfig
    from histocli.config.pack import PackConfig
    from histocli.config.refine import RefineConfig
    from histocli.config.run import RunConfig
    from histocli.config.segment import SegmentConfig
    from histocli.config.train import TrainConfig
else:
    _PLACES = {
        "compare": "api.scoring",
        "doctor": "api.files",
        "evaluate": "api.scoring",
        "EvaluateConfig": "config.evaluate",
        "Execution": "config.common",
        "generate": "api.patches",
        "GenerateConfig": "config.generate",
        "HistosynthError": "base.errors",
        "pack": "api.patches",
        "PackConfig": "config.pack",
        "Patches": "api.patches",
        "refine": "api.patches",
        "RefineConfig": "config.refine",
        "run": "api.files",
        "RunConfig": "config.run",
        "segment": "api.files",
        "SegmentConfig": "config.segment",
        "Segmentation": "api.segmenter",
        "Segmenter": "api.segmenter",
        "train": "api.training",
        "TrainConfig": "config.train",
    }

    def __getattr__(name):
        """Load the module of a name of ``__all__`` when the name is first used (PEP 562)."""
        from importlib import import_module

        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"histocli.{_PLACES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():
        """List the names that are loaded and those that are not loaded yet."""
        return sorted({*globals(), *__all__})
