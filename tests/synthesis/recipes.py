"""Recipes for tests: the synthesis with components off."""

from dataclasses import fields, replace

from histocli.synthesis.recipe import FULL_RECIPE, Recipe

COMPONENTS = [field.name for field in fields(Recipe)]
PLAIN_RECIPE = Recipe(**dict.fromkeys(COMPONENTS, False))


def without(component: str) -> Recipe:
    """Return the full recipe with one component off."""
    return replace(FULL_RECIPE, **{component: False})
