"""The scenes of the app: jobs are what its commands run."""

from app.conftest import flat, prepared_once, quick, settings  # noqa: F401
