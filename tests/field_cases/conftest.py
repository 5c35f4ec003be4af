"""The quick settings of the app's tests."""

from app.conftest import settings  # noqa: F401
