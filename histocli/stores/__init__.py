"""Reading and writing of the program's own stores and model files: paths, arrays, attributes."""
