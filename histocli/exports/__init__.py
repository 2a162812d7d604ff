"""Files for other programs, one module for each family of formats; each file says how it was made.

All files are written beside their place and renamed, so what is there is whole. Labels, outlines
and tables are written piece by piece: memory does not grow with the slide. The list of formats is
:data:`histocli.base.formats.FORMATS`.
"""
