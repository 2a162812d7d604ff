"""What Python programs call: the commands as functions, on files and on arrays in memory.

:mod:`histocli` offers all names of this room, and loads the modules when a name is first used.
"""
