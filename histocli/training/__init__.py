"""Training: the steps that change a network's weights, without files, bars or clocks."""
