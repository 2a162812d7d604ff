"""``histosynth generate``: reference images -> a store of synthetic patches with labels."""
