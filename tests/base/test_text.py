"""What is written for other programs speaks JSON only."""

import json
from pathlib import Path

import numpy as np

from histocli.base.text import plain_json


def test_plain_json_speaks_json_only():
    values = {
        "a": np.float32(0.5),
        1: np.arange(2),
        "nan": [float("nan"), np.inf],
        "path": Path("x"),
        "n": None,
        "t": (True,),
    }
    plain = plain_json(values)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain == {
        "a": 0.5,
        "1": [0, 1],
        "nan": [None, None],
        "path": "x",
        "n": None,
        "t": [True],
    }
