"""Exact resume: a run that was killed and resumed ends bit-identical to one that was not."""

import json
from dataclasses import asdict
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from mnist_lightning.data.augmentation import make_generator
from mnist_lightning.data.module import NO_AUGMENTATION, MNISTDataModule
from mnist_lightning.errors import UserError
from mnist_lightning.files import read_yaml
from mnist_lightning.runs.checkpoints import Checkpoint

DECISIVE = (  # trainer settings that affect the results and can't change in a run; its length can
    *("limit_train_batches", "limit_val_batches", "check_val_every_n_epoch", "val_check_interval", "precision"),
    *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "devices", "num_nodes", "strategy"),
    *("sync_batchnorm", "benchmark", "deterministic"),
)
FREE = ("data_dir", "num_workers")  # data settings that don't affect the results


class ExactResume(Callback):
    """Saves and restores what Lightning does not."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Saves whether the run was stopped early, in case it is killed before it ends."""
        checkpoint |= {"should_stop": trainer.should_stop, "length": [trainer.max_epochs, trainer.max_steps]}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restores that, and sets the data module's epoch: Lightning restores its loops after the first shuffle."""
        is_extended = checkpoint.get("length") != [trainer.max_epochs, trainer.max_steps]
        trainer.should_stop = checkpoint["should_stop"] and not is_extended
        for state in checkpoint["lr_schedulers"]:
            if is_extended and "total_steps" in state:  # a one-cycle schedule goes on with the new length
                checkpoint["lr_schedulers"] = [{"last_epoch": state["last_epoch"]}]
        # github.com/Lightning-AI/pytorch-lightning/issues/21938
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        trainer.datamodule.first_epoch = progress["processed"]  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Marks the checkpoint's epoch as finished, which Lightning would finish twice in a run with `max_steps`."""
        loop = trainer.fit_loop
        if loop.restarted_on_epoch_end:  # github.com/Lightning-AI/pytorch-lightning/issues/19617
            loop.epoch_progress.increment_completed()
            loop.epoch_loop.restarting = False
            loop.reset_restart_stage()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seeds the random generators by seed, process and epoch, so that their states need not be saved."""
        keys = (trainer.datamodule.seed, trainer.global_rank, trainer.current_epoch)  # type: ignore[attr-defined]
        seed_everything(make_generator(*keys).initial_seed(), workers=True, verbose=False)


def check_unchanged(stored: Checkpoint, model: LightningModule, data: MNISTDataModule, config: dict[str, Any]) -> None:
    """Raises a UserError unless a checkpoint was saved with the same settings."""
    run: dict[str, Any] = read_yaml(stored.run_dir / "config.yaml") if stored.run_dir else {}
    trainer = run.get("trainer", {})
    # What earlier versions did not have was off.
    augmentation = {**asdict(NO_AUGMENTATION), **stored.data_options.get("augmentation", {})}
    options = {"outliers": 0.0, **stored.data_options, "augmentation": augmentation}
    for flag, before, now in (
        *((f"data.{name}", value, data.hparams.get(name)) for name, value in options.items() if name not in FREE),
        *((f"model.init_args.{name}", value, model.hparams.get(name)) for name, value in stored.model_options.items()),
        *((f"trainer.{name}", trainer[name], config["trainer"][name]) for name in DECISIVE if name in trainer),
        *((name, run[name], config[name]) for name in ("optimizer", "lr_scheduler") if name in run),
    ):
        if json.dumps(before, default=str) != json.dumps(now, default=str):
            name = "seed_everything" if flag == "data.seed" else flag
            advice = "a resumed run keeps its settings: omit the flag, or start a new run with --init_from"
            raise UserError(f"--{name} was {before} when {stored.path} was saved, but is {now} now; {advice}")
