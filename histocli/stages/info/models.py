"""What a model file is, told from its header."""

from pathlib import Path

from histocli.stages.info.description import Description, megabytes
from histocli.stores import models


def describe_model(path: Path) -> Description:
    """Describe a model by its header."""
    header = models.read_model_header(path)
    contents = {
        "kind": header.kind,
        "architecture": header.architecture,
        "parameters": models.count_parameters(path),
        "mpp": header.mpp,
        "shippable": header.shippable,
        "normalisation": header.normalisation,
        "thresholds": header.thresholds,
        "training": header.training,
        "data": header.data,
        "megabytes": megabytes(path),
    }
    return Description(kind="model", provenance=header.provenance, contents=contents)
