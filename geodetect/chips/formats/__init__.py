"""Folders of chips with labels, one module per format; each gives and takes `Picture`s."""
