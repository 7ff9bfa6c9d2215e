"""What ends a run before its time: signals, and processes beside this one that die."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer

from mnist_lightning.console import say
from mnist_lightning.errors import in_one_line
from mnist_lightning.files import UnwritableError
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
        launcher = trainer.strategy.launcher
        with self.listening(), self.workers.watched(lambda: getattr(launcher, "procs", [])):
            yield

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Turns Ctrl-C and SIGTERM into a KeyboardInterrupt with the signal's number."""
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._listen()
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    signal.signal(number, handler)

    @contextlib.contextmanager
    def told(self, trainer: Trainer, resume: Callable[[], str]) -> Iterator[None]:
        """Watches likewise, and tells in a line what ends the call before its time.

        Args:
            trainer: The trainer that is called.
            resume: Returns the command that goes on.

        Raises:
            SystemExit: With the status that says what it was.
        """
        with self.over(trainer):
            try:
                yield
            except (SystemExit, KeyboardInterrupt):
                if not self.stopped_by:
                    raise
                if trainer.is_global_zero:
                    say(f"stopped     {self.done}")
                    say(f"goes on     {resume()}")
                raise SystemExit(128 + self.stopped_by) from None
            except UnwritableError as error:
                print(f"error: {in_one_line(error)}", file=sys.stderr)
                raise SystemExit(2) from None
            except (OSError, RuntimeError) as error:
                if not (problem := self.find_problem(error, trainer)):
                    raise
                print(f"error: {problem}; go on with {resume()}", file=sys.stderr)
                raise SystemExit(1) from None

    @property
    def done(self) -> str:
        """What has been done by now, for a run that is stopped."""
        return "with nothing written"

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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens again, since Lightning has begun to; the processes know each other by now."""
        self._listen()
        self.workers.patience_s = PATIENCE_S

    on_test_start = on_predict_start = on_train_start

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Does the same, if it is not part of training."""
        if trainer.state.fn == "validate":
            self.on_test_start(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Lets a second Ctrl-C end the program at once."""
        if isinstance(exception, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
