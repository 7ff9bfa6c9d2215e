"""Interruptions: Ctrl-C, SIGTERM, and worker processes that die."""

import contextlib
import time
from collections.abc import Iterator
from subprocess import Popen

import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer

from mnist_lightning.errors import handle_sigterm


@contextlib.contextmanager
def handled(trainer: Trainer) -> Iterator[None]:
    """Makes an interruption or a dead worker end a call of the trainer cleanly, leaving no process behind.

    Ctrl-C and SIGTERM raise a KeyboardInterrupt (see `main`), a worker's death a SystemExit that names it.
    """
    workers = _Workers()
    if trainer.world_size > 1:
        trainer.callbacks.insert(0, workers)  # type: ignore[attr-defined]
    try:
        yield
    except (SystemExit, RuntimeError) as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning replaced it with exit status 1
            raise error.__context__ from None
        if workers.problem:
            raise SystemExit(f"error: {workers.problem}") from None
        raise
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # gloo's threads could crash the interpreter at exit


class _Workers(Callback):
    """Stops a run's other processes when this one stops."""

    problem = ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replaces Lightning's own handler, which may broadcast during another broadcast."""
        handle_sigterm()  # github.com/Lightning-AI/pytorch-lightning/issues/20806 and pull/20825

    on_validation_start = on_test_start = on_predict_start = on_train_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Finds out which worker has died, up to 3 s after the connection to it was lost, and kills the others."""
        started: list[Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        processes = started.copy()
        # Otherwise Lightning's observer would kill this process, too.
        started.clear()  # github.com/Lightning-AI/pytorch-lightning/pull/18218
        deadline = time.monotonic() + (3 if isinstance(exception, RuntimeError) else 0)
        while processes and time.monotonic() < deadline and not self.problem:
            for rank, process in enumerate(processes, 1):
                if status := process.poll():
                    how = f"was killed by signal {-status}" if status < 0 else "failed with the error above"
                    self.problem = f"worker process {rank} {how}"
            time.sleep(0.1)
        for process in processes:
            process.kill()
            process.wait()
