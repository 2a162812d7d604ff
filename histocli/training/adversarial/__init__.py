"""The adversarial training of the refiner, on two unpaired sets: initial patches and real ones.

The realism critic proves itself first, and the refiner moves only while that critic is right often
enough. The critic looks at nuclei only and at their texture only (``model.discriminator``); the
refiner may change texture freely and tone at a price.
"""
