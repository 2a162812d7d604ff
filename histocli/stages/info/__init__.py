"""``histosynth info``: what a store, model or slide is, one file a kind."""
