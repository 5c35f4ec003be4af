"""Register two images by corresponding regions of interest."""

__version__ = "0.1.0"
