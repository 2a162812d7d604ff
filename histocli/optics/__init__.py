"""The physics of a stained section: optical density, stains, blur; NumPy and torch side by side."""
