"""Automated model merging: search for the merge that is good at everything."""

__version__ = '0.1.0'
