"""Compares sets of images: are synthetic patches realistic, and do they represent their
references?
"""
