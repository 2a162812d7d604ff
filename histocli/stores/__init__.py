"""Every path, axis, chunk and attribute on disk."""
