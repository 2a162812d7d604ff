"""``histosynth info``: descriptions of patch stores, label stores, models and slides."""
