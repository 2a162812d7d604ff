"""Compares sets of images: are patches realistic, and do they represent their references?"""
