"""Writers of files for other programs, one module for each family of formats.

Every file has a *record*: a JSON object that says how the file was made (settings, inputs,
version). Files are written under a temporary name and renamed when complete. Label images, outlines
and tables are written piece by piece. Formats: :data:`histocli.base.formats.FORMATS`.
"""
