"""Labels that other people and programs made, found and read through one door."""
