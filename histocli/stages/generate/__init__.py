"""``histosynth generate``: reference images become synthetic patches with nucleus labels."""
