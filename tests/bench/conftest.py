"""The batch system of the cohort tests runs pairs of the benchmark, too."""

from cohort.conftest import batch_system, child_path

__all__ = ["batch_system", "child_path"]
