"""What ends a run before its time: signals, and processes beside this one that die."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer

from mnist_lightning.errors import in_one_line
from mnist_lightning.workers import PATIENCE_S, Workers

ECHOES = ("gloo", "NCCL", "TCPStore", "Connection closed by peer", "Connection reset by peer")
"""In the errors of a process that another one has left alone."""


class Watch(Callback):
    """Hears signals in place of Lightning, whose handlers talk to the other processes in the middle of anything.

    Attributes:
        stopped_by: The signal that ended the run, if one did.
        workers: The processes that Lightning started beside this one.
    """

    stopped_by: int | None = None

    def __init__(self) -> None:
        self.workers = Workers()

    @contextlib.contextmanager
    def over(self, trainer: Trainer) -> Iterator[None]:
        """Watches a call of the trainer, from before it starts other processes until they have ended."""
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._listen()
        launcher = trainer.strategy.launcher
        try:
            with self.workers.watched(lambda: getattr(launcher, "procs", [])):
                yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    signal.signal(number, handler)

    def find_problem(self, error: BaseException, trainer: Trainer) -> str:
        """Says what is behind an error of the trainer, if it is not this program's or the user's own."""
        if problem := self.workers.find_dead()[0]:
            return problem
        text = in_one_line(error)
        if text.startswith("DataLoader worker"):
            return f"a process that loads batches has ended ({text})"
        is_echo = trainer.world_size > 1 and any(echo in text for echo in ECHOES)
        return f"another process of this run is gone ({text})" if is_echo else ""

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as a shell leaves it to what runs in the background
                signal.signal(signal.SIGINT, self._interrupt)
            if not SLURMEnvironment.detect():  # where Lightning asks for another turn
                signal.signal(signal.SIGTERM, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> NoReturn:
        self.stopped_by = number
        raise KeyboardInterrupt(number)

    def _begin(self) -> None:
        self._listen()  # Lightning has begun to just before
        self.workers.patience_s = PATIENCE_S

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins."""
        self._begin()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins, if it is not part of training."""
        if trainer.state.fn == "validate":
            self._begin()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins."""
        self._begin()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins."""
        self._begin()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lets a second Ctrl-C end the program at once."""
        if isinstance(exception, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
