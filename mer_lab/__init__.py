"""mer_lab: a course and an analysis package for emotion recognition from speech and text."""

__version__ = "0.1.0"
