"""The networks that the commands share."""
