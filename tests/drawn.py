"""Regions for tests."""

import json
from pathlib import Path


def rectangle(path: Path, y0: int, x0: int, y1: int, x1: int) -> Path:
    """Write a rectangle as GeoJSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    path.write_text(
        json.dumps(
            {
                "type": "Feature",
                "properties": {},
                "geometry": {"type": "Polygon", "coordinates": [ring]},
            }
        )
    )
    return path
