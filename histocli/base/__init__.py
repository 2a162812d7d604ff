"""What all rooms stand on: errors, types, files, inputs, randomness, devices, workers."""
