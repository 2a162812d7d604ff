"""Code that several stages share: results, the frame of a command, the session of a training."""
