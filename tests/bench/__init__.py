"""Figures of this release beside a named peer's, measured in the same run (`make bench`).

One module for each figure, a table of them in `__main__`. A figure is never a test: it passes and
fails nothing, and the ratio means something only beside the peer of the same run.
"""
