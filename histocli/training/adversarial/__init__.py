"""The adversarial training of the refiner, on two unpaired sets: initial patches and real ones.

The refiner is updated once the realism critic is *proven* (it separates real from initial nuclei on
held-out crops) and while the critic judges enough pixels rightly. The critic sees texture, not tone
(``model.discriminator``); a change of tone adds to the refiner's loss.
"""
