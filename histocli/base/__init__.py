"""What would be true in astronomy too: errors, types, randomness, devices, progress, workers."""
