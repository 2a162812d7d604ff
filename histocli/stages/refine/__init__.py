"""``histosynth refine``: repaint initial (synthetic) patches so that they look real.

A refiner is trained against critics, which also see patches of the references (real images). It
then repaints every patch in the style of a reference. Labels stay bit for bit the same; whether
they still fit is checked against nuclei that a rough method finds, and each patch is weighed by a
classifier that has not seen it. The refined store also holds the networks. Beside it,
``<out>.log/`` holds ``metrics.jsonl``, sheets of initial, refined and reference patches and, until
the store is written, the checkpoint for a later command.
"""
