"""Labels that other people and programs made: label images, outlines and regions, found and read through one door."""
