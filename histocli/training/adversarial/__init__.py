"""The adversarial training of the refiner, on two unpaired sets: initial patches and real ones.

The refiner is updated only once the realism critic is *proven*, which means that it separates real
from initial nuclei well enough on held-out crops, and only while that critic judges enough pixels
rightly. The critic sees texture, not tone (``model.discriminator``). The refiner may change
texture freely; a change of tone adds to its loss.
"""
