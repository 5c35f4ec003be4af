"""Methods beside each other on sets of image pairs, all scored in the same way: ``roireg bench DATA``.

Importing the package loads nothing; its modules are imported where they are used.
"""

__version__ = "0.1.0"
