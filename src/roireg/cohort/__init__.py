"""Many registrations: cohorts on Dask, BIDS data sets, templates.

Importing this package loads neither torch nor Dask; what runs loads what it needs.
"""

from roireg.cohort.bids import BidsJob
from roireg.cohort.cohort import CohortJob, CohortResult
from roireg.cohort.template import TemplateJob

__all__ = ["BidsJob", "CohortJob", "CohortResult", "TemplateJob"]
