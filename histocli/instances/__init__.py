"""What a set of nuclei is: labels, targets, outlines, measurements, patches cut out."""
