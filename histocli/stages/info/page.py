"""The page that ``info`` prints: what a person asks first, in words and with units.

``info --all`` prints every recorded value instead (:mod:`histocli.stages.info.tables`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from histocli.base.types import Json
from histocli.metrics.table import shown_in
from histocli.stages.info.tables import Rows

NAMED = 4  # names of inputs that are listed; of more, the number is said
REFERENCES = 6  # references that have a row


def page_rows(kind: str, contents: Json, provenance: Json) -> Rows:
    """Return names and values of the page about a store, model or slide."""
    lines = {"patches": _patches, "labels": _labels, "model": _model, "slide": _slide}[kind]
    rows = [(name, value) for name, value in lines(contents) if value]
    return [*rows, *_made_by(provenance)]


def reference_rows(references: list[Json]) -> Rows:
    """Return a row for each of the first references, and the number of the others."""
    rows = []
    for reference in references[:REFERENCES]:
        morphology = (reference.get("statistics") or {}).get("morphology") or {}
        parts = [f"{reference['mpp']:g} um/px ({reference['mpp_source']})"]
        if "n_nuclei" in morphology:
            parts.append(f"{morphology['n_nuclei']:,} rough nuclei")
        if "density_per_mm2" in morphology:
            parts.append(f"{morphology['density_per_mm2']:,.0f} per mm2")
        rows.append((str(reference["name"]), ", ".join(parts)))
    if len(references) > REFERENCES:
        rows.append(("", f"and {len(references) - REFERENCES} more; --all shows all"))
    return rows


def _patches(contents: Json) -> Iterator[tuple[str, str]]:
    side, mpp = contents["patch_px"], contents["mpp"]
    yield "patches", f"{contents['patches']:,} of {side} px at {mpp:g} um/px ({side * mpp:.0f} um)"
    shared = "may be given away" if contents["shippable"] else "must not be given away"
    yield "kind", f"{contents['origin']}; what is trained on them {shared}"
    per_patch = _spread(contents["nuclei_per_patch"])
    yield "nuclei", f"{contents['nuclei']:,}; {per_patch} a patch"
    yield "without any", _many(contents["patches_without_nuclei"], "patch", "patches")
    yield "area", _with_unit(_spread(contents["area_um2"]), "um2")
    shares = 100 * contents["share_nuclei"], 100 * contents["share_ignored"]
    yield "pixels", f"{shares[0]:.1f} % nuclei, {shares[1]:.1f} % ignored"
    yield "references", f"{contents['references']:,}"
    yield "on disk", f"{contents['megabytes']:,.1f} MB"


def _labels(contents: Json) -> Iterator[tuple[str, str]]:
    height, width, mpp = contents["height_px"], contents["width_px"], contents["mpp"]
    source = contents.get("source") or {}
    yield "of", str(source.get("name", ""))
    if contents["layout"] == "patches":
        yield "patches", f"{contents['label_images']:,} of {height} x {width} px at {mpp:g} um/px"
        yield "nuclei", f"{contents['nuclei']:,}; {_spread(contents['nuclei_per_patch'])} a patch"
        return
    yield "size", _size(height, width, mpp, contents.get("mpp_source"))
    density = contents.get("nuclei_per_mm2")
    where = f" on {contents['mm2']:.3g} mm2" if contents.get("mm2") else ""
    per_area = f", {density:,.0f} per mm2" if density is not None else ""
    yield "nuclei", f"{contents['nuclei']:,}{where}{per_area}"
    yield "area", _with_unit(_spread(contents.get("area_um2")), "um2")
    yield "elongation", _spread(contents.get("elongation"))
    yield "probability", _spread(contents.get("probability"))
    yield "look out", "; ".join(_concerns(contents))
    model = contents.get("model") or {}
    backend = f" (run by {model['backend']})" if model.get("backend") else ""
    yield "model", f"{model.get('name', '')}{backend}"
    if "megabytes" in contents:
        yield "on disk", f"{contents['megabytes']:,.1f} MB"


def _concerns(contents: Json) -> Iterator[str]:
    """Yield what may make the labels of a slide wrong."""
    if contents.get("far"):
        yield "the model has seen no stain like this"
    if contents.get("blurred_share"):
        yield f"{100 * contents['blurred_share']:.0f} % of the tissue out of focus"
    if contents.get("ink_mm2"):
        yield f"{contents['ink_mm2']:.2g} mm2 of pen"
    if contents.get("n_cut"):
        yield f"{_many(contents['n_cut'], 'nucleus', 'nuclei')} may be cut"


def _model(contents: Json) -> Iterator[tuple[str, str]]:
    architecture = contents.get("architecture") or {}
    channels = architecture.get("channels")
    wide = " " + "-".join(map(str, channels)) if isinstance(channels, list) else ""
    family = f", {architecture['family']}{wide}" if "family" in architecture else ""
    million = contents["parameters"] / 1e6
    yield "network", f"{contents['kind']}{family}, {million:.2f} million parameters"
    yield "pixel size", f"{contents['mpp']:g} um/px; slides are resampled to it"
    yield "licence", "may be given away" if contents.get("shippable") else "must not be given away"
    thresholds = contents.get("thresholds") or {}
    if {"confidence", "smallest_um2"} <= thresholds.keys():
        yield (
            "keeps nuclei",
            f"of confidence {thresholds['confidence']:g} and {thresholds['smallest_um2']:g} um2 "
            "or more",
        )
    training = contents.get("training") or {}
    if training.get("steps") is not None:
        loss = training.get("loss")
        ended = f", loss {loss:.3f}" if isinstance(loss, float) else ""
        rounds = len(training.get("self_training") or ())
        taught = f", {_many(rounds, 'round', 'rounds')} on real tissue" if rounds else ""
        yield "training", f"{_many(training['steps'], 'step', 'steps')}{ended}{taught}"
    held = training.get("held_out") or {}
    scores = [f"{name.upper()} {held[name]:.3f}" for name in shown_in("training") if name in held]
    if scores:
        yield "held out", f"{', '.join(scores)} on synthetic patches, not on real tissue"
    yield "learnt from", _sources(contents.get("data") or [])
    yield "on disk", f"{contents['megabytes']:,.1f} MB"


def _sources(data: list[Json]) -> str:
    """Name the inputs of a training by their kinds."""
    kinds: dict[str, list[str]] = {}
    for entry in data:
        if isinstance(entry, dict) and "name" in entry:
            kinds.setdefault(str(entry.get("origin", "input")), []).append(str(entry["name"]))
    parts = []
    for kind, names in kinds.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        parts.append(f"{kind}: {', '.join(names[:NAMED])}{more}")
    return "; ".join(parts)


def _slide(contents: Json) -> Iterator[tuple[str, str]]:
    mpp = contents["mpp"]
    size = _size(contents["height_px"], contents["width_px"], mpp, contents["mpp_source"])
    yield "size", size if mpp else f"{size}; no pixel size recorded: give it with --mpp"
    yield "megapixels", f"{contents['megapixels']:,.1f}"
    levels = contents["levels"]
    steps = ", ".join(f"{level['downsample']:g}" for level in levels)
    yield "levels", f"{len(levels)}, smaller by {steps}" if len(levels) > 1 else "full size only"
    yield "read by", str(contents["backend"])
    yield "on disk", f"{contents['megabytes']:,.1f} MB"


def _size(height: int, width: int, mpp: float | None, source: Any) -> str:
    text = f"{height:,} x {width:,} px (height x width)"
    if not mpp:
        return text
    millimetres = f"{height * mpp / 1000:.3g} x {width * mpp / 1000:.3g} mm"
    return f"{text} at {mpp:.4g} um/px ({source or 'recorded'}), {millimetres}"


def _made_by(provenance: Json) -> Iterator[tuple[str, str]]:
    if not provenance:
        return
    seed = provenance.get("seed")
    parts = [
        f"histosynth {provenance.get('command', '')} {provenance.get('package_version', '')}",
        str(provenance.get("created", "")).replace("T", " ")[:16],
        f"seed {seed}" if seed is not None else "",
    ]
    yield "made by", ", ".join(part for part in parts if part)


def _spread(found: Json | None) -> str:
    """Write a distribution: its median and where most of it lies."""
    if not found or "p50" not in found:
        return ""
    low, middle, high = (f"{found[name]:.3g}" for name in ("p5", "p50", "p95"))
    return f"median {middle}, 90 % within {low} to {high}"


def _with_unit(text: str, unit: str) -> str:
    return f"{text} {unit}" if text else ""


def _many(n: int, one: str, several: str) -> str:
    return f"{n:,} {one if n == 1 else several}"
