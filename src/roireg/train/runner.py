"""Training runs: parts of a fixed number of steps, a checkpoint after each, and an exact way on from any of them.

What a step sees is a function of the seed and its number, so a run that was stopped and resumed ends with the weights
of one that was not. Lightning does the loop, devices, number formats and checkpoints.
"""

from __future__ import annotations

import importlib
import logging
import math
import signal
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from roireg.core.errors import InputError, OptionalDependencyError

__all__ = [
    "BatchSource",
    "Task",
    "TrainSettings",
    "TrainingStopped",
    "processor_minutes",
    "record",
    "train",
    "trained_weights",
]

LAST = "last.ckpt"


class TrainingStopped(InputError):
    """A training that cannot go on; says the step and what to resume from."""


class TrainSettings(BaseModel):
    """How long and how fast to train, and on what.

    Attributes
    ----------
    seed : of the first weights, the data and all that is drawn.
    steps : of the optimiser, in all.
    part : steps between two checkpoints; a run that is stopped loses less than these.
    check : parts between two looks at held-out data; 0 never looks.
    batch : pairs per step and device.
    lr : largest learning rate of AdamW.
    warmup : steps in which the learning rate rises.
    decay : part of the steps, at the end, in which it falls to nothing.
    weight_decay, clip : of AdamW, and the largest norm of a gradient.
    accelerator, devices, strategy, precision : as Lightning calls them ("cpu", "gpu"; 1, 4; "ddp"; "32-true",
        "bf16-mixed").
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    steps: int = Field(1000, ge=1)
    part: int = Field(100, ge=1)
    check: int = Field(1, ge=0)
    batch: int = Field(4, ge=1)
    lr: float = Field(2e-3, gt=0)
    warmup: int = Field(100, ge=0)
    decay: float = Field(0.3, ge=0, le=1)
    weight_decay: float = Field(1e-4, ge=0)
    clip: float = Field(2.0, gt=0)
    accelerator: str = "cpu"
    devices: int = Field(1, ge=1)
    strategy: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true"] = "32-true"

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, as a part of the largest."""
        begun = min(1.0, (step + 1) / max(1, self.warmup))
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return begun * min(1.0, max(0.0, left))


RESUMABLE = {"steps", "decay", "part", "check", "accelerator", "devices", "strategy"}
"""Settings that may change between the parts of a run: those that leave the steps so far as they were."""


class BatchSource(Protocol):
    """Batches by number, without end."""

    def batch(self, number: int, size: int) -> Any:
        """Return a batch of `size` examples; equal numbers give equal batches."""
        ...


class Task(nn.Module):
    """What is trained: a network, its data and its loss. Subclasses say what a step is.

    Attributes
    ----------
    network : the module whose weights are kept.
    data : what a step sees.
    """

    network: nn.Module
    data: BatchSource

    @abstractmethod
    def loss(self, batch: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a batch and numbers for the log."""

    def held_out(self) -> dict[str, float]:
        """Measure the network, in evaluation mode, on data that is never trained on."""
        return {}

    def measured(self) -> dict[str, float]:
        """Return `held_out` of the network as it is, rounded for a card."""
        self.eval()
        with torch.no_grad():
            return {name: round(value, 4) for name, value in self.held_out().items()}


class _Stream(IterableDataset[Any]):
    """The batches of one part, for one of several processes."""

    def __init__(self, data: BatchSource, settings: TrainSettings, start: int, rank: int, ranks: int) -> None:
        self.data, self.settings = data, settings
        self.numbers = range(start, start + settings.part)
        self.rank, self.ranks = rank, ranks

    def __iter__(self) -> Iterator[Any]:
        for number in self.numbers:
            yield self.data.batch(number * self.ranks + self.rank, self.settings.batch)


def _lightning() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what its own dependencies call deprecated
            return importlib.import_module("lightning.pytorch")
    except ModuleNotFoundError as error:
        raise OptionalDependencyError(
            'training needs the package lightning; run pip install "roireg[train]"'
        ) from error


def _module(task: Task, settings: TrainSettings, folder: Path) -> Any:
    lightning = _lightning()

    class Module(lightning.LightningModule):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.task = task
            self.spent, self.started = 0.0, time.process_time()

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(
                self.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, betas=(0.9, 0.98)
            )

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            # By the number of the step alone: a run that is resumed to more steps takes its rate from them.
            for group in self.optimizers().param_groups:
                group["lr"] = settings.lr * settings.rate(self.global_step)

        def train_dataloader(self) -> Any:
            stream = _Stream(task.data, settings, self.global_step, self.global_rank, self.trainer.world_size)
            return DataLoader(stream, batch_size=None)

        def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
            return batch.to(device)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss, numbers = task.loss(batch, self.global_step)
            if not torch.isfinite(loss):
                last = folder / LAST
                onward = f"resume from {last} with a lower lr" if last.is_file() else "start again with a lower lr"
                raise TrainingStopped(f"the loss of step {self.global_step} is no finite number; {onward}")
            self.log_dict({"loss": loss.detach(), **numbers}, on_step=False, on_epoch=True, batch_size=1)
            return loss

        def on_train_epoch_end(self) -> None:
            parts = math.ceil(self.global_step / settings.part)
            if settings.check and parts % settings.check == 0 and self.trainer.is_global_zero:
                self.log_dict({f"held_out_{k}": v for k, v in task.measured().items()}, rank_zero_only=True)
                task.train()

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["settings"] = settings.model_dump()
            checkpoint["processor_seconds"] = self.spent + time.process_time() - self.started

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.spent = checkpoint["processor_seconds"]

    return Module()


def train(task: Task, settings: TrainSettings, folder: Path, *, resume: bool = False, quiet: bool = True) -> Path:
    """Train to the last step; writes `last.ckpt` after every part and a row of `log.csv`.

    Parameters
    ----------
    folder : of the run; made where it is not there.
    resume : go on from its `last.ckpt`.

    Returns
    -------
    The last checkpoint.

    Raises
    ------
    InputError
        When there is a run in the folder that is not to be resumed, none that could be, or it had other settings.
    TrainingStopped
        When a loss is not finite.
    OptionalDependencyError
        When Lightning is not installed.
    """
    lightning = _lightning()
    last = folder / LAST
    _check_folder(settings, last, resume)
    folder.mkdir(parents=True, exist_ok=True)
    callbacks = importlib.import_module("lightning.pytorch.callbacks")
    loggers = importlib.import_module("lightning.pytorch.loggers")
    keep = callbacks.ModelCheckpoint(
        dirpath=folder, filename="last", every_n_epochs=1, save_on_train_epoch_end=True, enable_version_counter=False
    )
    # Lightning restarts an unfinished epoch; here every epoch is a part, and only whole ones are kept.
    start = torch.load(last, weights_only=True)["global_step"] if resume else 0
    logger = loggers.CSVLogger(folder, name="", version="log" if not start else f"log-{start}")
    if quiet:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            strategy=settings.strategy,
            precision=settings.precision,
            max_steps=settings.steps,
            max_epochs=-1,
            gradient_clip_val=settings.clip,
            reload_dataloaders_every_n_epochs=1,
            callbacks=[keep],
            logger=logger,
            log_every_n_steps=settings.part,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            deterministic=True,
        )
        with _interruptible():
            trainer.fit(_module(task, settings, folder), ckpt_path=last if resume else None)
    return last


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C be one: Lightning makes it the exit code 1 and has the process ignore any further."""
    usual = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, usual)
            raise end.__context__ from None
        raise


def _check_folder(settings: TrainSettings, last: Path, resume: bool) -> None:
    if not resume:
        if last.exists():
            raise InputError(f"{last.parent}: holds a run already; say --resume to go on, or name another folder")
        return
    if not last.is_file():
        raise InputError(f"{last.parent}: there is no checkpoint {LAST} to resume from; start without --resume")
    before = torch.load(last, weights_only=True)["settings"]
    now = settings.model_dump()
    changed = [k for k, v in now.items() if k not in RESUMABLE and before.get(k) != v]
    if changed:
        raise InputError(
            f"{last}: was trained with another {', '.join(changed)}; resume with the configuration it was begun with"
        )


def trained_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Return the weights of the network of a task from its checkpoint."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
    return {k.removeprefix("task.network."): v for k, v in state.items() if k.startswith("task.network.")}


def record(settings: TrainSettings, checkpoint: Path) -> dict[str, object]:
    """Return what the card of trained weights says of the run that made them: pairs, seed, machine, time."""
    return {
        "steps": settings.steps,
        "pairs": settings.steps * settings.batch * settings.devices,
        "seed": settings.seed,
        "hardware": f"{settings.devices} {settings.accelerator}, {settings.precision}",
        "cpu_minutes": processor_minutes(checkpoint),
    }


def processor_minutes(checkpoint: Path) -> float:
    """Return how long the first process of a run has computed, over all its parts."""
    seconds = torch.load(checkpoint, weights_only=True, map_location="cpu")["processor_seconds"]
    return round(float(seconds) / 60, 1)
