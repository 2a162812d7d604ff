"""``histosynth refine``: initial patches become realistic, with labels that stay true.

A refiner is trained against critics on patches of the references. It then repaints every patch in
the style of a reference. Whether the labels still fit is checked by a method that knows nothing of
the refiner, and each patch is weighed by a classifier that has not seen it. The refined store keeps
the labels bit for bit, and holds the networks. Beside it, ``<out>.log/`` holds ``metrics.jsonl``,
sheets of initial, refined and reference patches and, until the store is written, the checkpoint
that ``--resume`` goes on from.
"""
