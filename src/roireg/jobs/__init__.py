"""Jobs: files in, files out. The command line, cohorts and servers run the same ones.

A job is a frozen dataclass of paths and options; its fields are also the options of the command of that name.
Importing this package loads no torch: a job is made and checked (`Job.check`) in a moment, the rest comes with
`Job.run`.
"""

from roireg.jobs.apply import ApplyJob
from roireg.jobs.convert import ConvertJob
from roireg.jobs.evaluate import EvaluateJob
from roireg.jobs.job import FolderJob, Job, JobResult
from roireg.jobs.match import MatchJob
from roireg.jobs.prompt import PromptJob
from roireg.jobs.register import RegisterJob
from roireg.jobs.segment import SegmentJob

__all__ = [
    "ApplyJob",
    "ConvertJob",
    "EvaluateJob",
    "FolderJob",
    "Job",
    "JobResult",
    "MatchJob",
    "PromptJob",
    "RegisterJob",
    "SegmentJob",
]
