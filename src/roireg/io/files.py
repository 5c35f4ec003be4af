"""The old place of `roireg.core.files`."""

from roireg.core.files import atomic_path, new_folder

__all__ = ["atomic_path", "new_folder"]
