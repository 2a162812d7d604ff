"""``histosynth generate``: reference images become a store of synthetic patches with nucleus labels."""
