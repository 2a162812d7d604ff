"""``histosynth run``: the other commands as one, from references to labelled slides."""
