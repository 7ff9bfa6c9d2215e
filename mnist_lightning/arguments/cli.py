"""Builds a command's model, data module, trainer and run folder from its flags."""

import argparse
import contextlib
import inspect
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from mnist_lightning import console
from mnist_lightning.arguments import flags as command_flags
from mnist_lightning.arguments import settings
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.errors import UserError, did_you_mean, one_line
from mnist_lightning.files import write_atomically
from mnist_lightning.models import Classifier, Ensemble, known_classes
from mnist_lightning.runs import checkpoints, folders
from mnist_lightning.training.history import RunCheckpoints, TrainingHistory
from mnist_lightning.training.progress import PassBar
from mnist_lightning.training.resume import ExactResume, check_unchanged
from mnist_lightning.training.tensorboard import TensorBoardPages, make_logger


class CLI(LightningCLI):
    """Parses the flags of a command, and builds its model, data module and trainer, or raises a UserError."""

    checkpoint: checkpoints.Checkpoint | None = None  # used or resumed; None for a new `fit` or an ensemble
    origin: checkpoints.Checkpoint | None = None  # whose weights a `fit` starts from

    def __init__(
        self,
        command: str,
        flags: Sequence[str],
        callbacks: Sequence[Callback] = (),
        add_flags: Callable[[LightningArgumentParser], object] = lambda parser: None,
    ) -> None:
        self.command, self.add_flags = command, add_flags
        self.history = TrainingHistory()
        _hide_notices()
        # Before torch starts its threads, which inherit it. The momentum of units that stay inactive decays to denormal
        # numbers, which are slow on some processors.
        self.flushes_denormals = torch.set_flush_denormal(True)
        options = {"exit_on_error": False, "allow_abbrev": False, "default_env": True}  # PL_TRAINER__MAX_EPOCHS
        try:
            super().__init__(
                Classifier,
                MNISTDataModule,
                save_config_callback=None,
                trainer_defaults={**settings.DEFAULTS, "callbacks": [*callbacks]},
                seed_everything_default=0,
                parser_kwargs={"prog": console.command_line(command), **options},
                subclass_mode_model=True,
                args=list(flags),
                run=False,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
            )
        except (argparse.ArgumentError, ValueError, TypeError, OSError) as error:
            raise UserError(_explain(error, command, self.parser.format_usage())) from error
        console.console.quiet = not self.trainer.is_global_zero
        console.console.stderr = self.config.get("output") == "-"  # nothing but the predictions goes to stdout

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds `--ckpt_path` and the command's own flags, and links the model's arguments to the data's."""
        for name in command_flags.LINKED:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.seed")
        parser.add_argument("--ckpt_path", type=str | None, default=None)
        parser.add_argument("--init_from", type=str | None, default=None)  # like the following, `fit` alone uses it
        parser.add_argument("--explain", type=bool, default=True)  # for `fit`, `validate` and `test`
        parser.add_optimizer_args()
        parser.add_lr_scheduler_args()
        self.add_flags(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses flags: they override configs, those the checkpoint's options, and those the signatures' defaults."""
        flags = command_flags.normalize(args)
        ckpt_path, init_from, root = command_flags.named_checkpoint(flags)
        if ckpt_path and init_from and self.command == "fit":
            raise UserError("--ckpt_path resumes a run, --init_from starts one; omit one of them")
        stored, is_resumed = None, bool(ckpt_path) and self.command == "fit"
        if path := ckpt_path or (init_from if self.command == "fit" else "best"):
            stored = checkpoints.read(folders.find_checkpoint(path, Path(root or ".") / folders.LOGS_DIR, is_resumed))
        self.config = parser.parse_args([*command_flags.defaults(self.command, flags, stored, is_resumed), *flags])
        if self.config.model.class_path != checkpoints.class_path(Ensemble):
            self.checkpoint, self.origin = (stored, None) if is_resumed or self.command != "fit" else (None, stored)
        elif self.command == "fit" or self.config.ckpt_path:
            raise UserError("an Ensemble consists of trained checkpoints; it takes no --ckpt_path and can't be trained")

    def instantiate_classes(self) -> None:
        """Builds model, data module and trainer, and loads the checkpoint's weights."""
        super().instantiate_classes()
        settings.choose_optimizer(self.model, self.config_init.optimizer, self.config_init.lr_scheduler)
        stored = self.checkpoint or self.origin
        self.ckpt_paths = [stored.path] if stored else getattr(self.model, "ckpt_paths", [])  # of an ensemble's members
        if stored:
            self.has_new_head = bool(self.origin) and stored.class_names != tuple(self.datamodule.class_names)
            command_flags.load_weights(stored, self.model, self.datamodule, self.has_new_head)
            if self.command == "fit" and self.checkpoint:
                check_unchanged(stored, self.model, self.datamodule, self.config.as_dict())
            if self.trainer.world_size > 1:
                # Lightning starts the other processes with these flags; by then, another run may be the newest.
                sys.argv.append(f"--{'ckpt_path' if self.checkpoint else 'init_from'}={stored.path}")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer with this package's callbacks, except those that flags disable."""
        config = self.config_init.trainer
        settings.check(self.command, config)
        self.precision_note = settings.choose_precision(self.command, config, is_new=not self.checkpoint)
        callbacks: list[Callback] = self.trainer_defaults["callbacks"]
        if has_bar := config.enable_progress_bar or (config.enable_progress_bar is None and sys.stdout.isatty()):
            callbacks.append(PassBar(refresh_rate=20, leave=True))  # closes each epoch's bar, and does not reuse it
        if self.command == "fit":
            callbacks += [self.history, TensorBoardPages(self.history, self.config.explain), ExactResume()]
            if config.enable_checkpointing is not False and not config.fast_dev_run:
                callbacks.append(RunCheckpoints(self.history))
        plugins = config.plugins or []
        plugins = [*(plugins if isinstance(plugins, list) else [plugins]), checkpoints.DurableIO()]
        if not torch.cuda.is_available():
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"  # Lightning sets 1, which makes each step look for a GPU
        # The logger is created with the run folder, after all input has been checked.
        logger = config.logger is not True and config.logger
        try:
            return super().instantiate_trainer(plugins=plugins, enable_progress_bar=has_bar, logger=logger)
        except (MisconfigurationException, ImportError, TypeError, ValueError) as error:
            names = ("accelerator", "devices", "strategy")
            given = [f"--trainer.{name} {config[name]}" for name in names if config[name] != "auto"]
            advice = "; --trainer.accelerator auto uses what is available" if given else ""
            raise UserError(f"{' '.join(given) or '--trainer'}: {one_line(error).rstrip('!.')}{advice}") from error

    def find_or_make_run_dir(self) -> Path:
        """Returns the run folder of the checkpoint, or creates a new one."""
        if self.checkpoint and self.checkpoint.run_dir:
            return self.checkpoint.run_dir
        return folders.make_run_dir(Path(self.config.trainer.default_root_dir or ".") / folders.LOGS_DIR)

    @contextlib.contextmanager
    def open_run(self) -> Iterator[Path | None]:
        """Locks and records a `fit`'s run folder, and attaches the logger; yields None where nothing is written."""
        trainer, stored, config = self.trainer, self.checkpoint, self.config.clone()
        if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            yield None
            return
        run_dir, is_resumed = self.find_or_make_run_dir(), bool(stored and stored.run_dir)
        with folders.locked(run_dir):
            try:
                config.ckpt_path, config.trainer.precision = None, self.config_init.trainer.precision
                write_atomically(run_dir / "config.yaml", self.parser.dump(config, skip_none=False))
                details = {"seed": config.seed_everything, "device": str(trainer.strategy.root_device)}
                details |= {"processor": torch.backends.cpu.get_cpu_capability(), "processes": trainer.world_size}
                details |= {"threads": torch.get_num_threads(), "flushes_denormals": self.flushes_denormals}
                folders.record_environment(run_dir, **details)
            except UserError:
                if not is_resumed:
                    shutil.rmtree(run_dir, ignore_errors=True)
                raise
            self.history.run_dir = run_dir
            if self.config_init.trainer.logger is True:
                # TensorBoard drops what an interrupted run logged after its checkpoint.
                trainer.loggers = [make_logger(run_dir, purge_step=stored.num_steps if stored and is_resumed else None)]
            yield run_dir


def _explain(error: Exception, command: str, usage: str) -> str:
    """Returns a jsonargparse error without what it repeats for each alternative, and with a suggestion."""
    text = str(error)
    key = text.partition("\n")[0] if text.startswith("Parser key") and "Errors:" in text else ""
    reason = text.rpartition("Errors:")[2].partition("Given value")[0].replace("- Expected a <class 'NoneType'>", "")
    line = " ".join(f"{key} {reason}".replace(" - ", " ").split())
    if isinstance(error, argparse.ArgumentError):
        models = {model.__name__: model for model in known_classes().values()}
        line += f"; models are {', '.join(models)}" if "import path" in text and '"model"' in key else ""
        line += f"; see {console.command_line(command, '--help')}"
        if unknown := re.search(r"(?:unrecognized arguments: |Option '|import path string: )([^\s=']+)", text):
            options = {name for model in models.values() for name in inspect.signature(model).parameters}
            named = [*inspect.signature(Classifier).parameters, *torch.optim.__all__, *torch.optim.lr_scheduler.__all__]
            line += did_you_mean(unknown[1], [*options, *named, *models, "--config", *re.findall(r"--[\w.]+", usage)])
    return line


def _hide_notices() -> None:
    """Hides Lightning's notices about seeds and hardware, its advertisements, and advice that is wrong here."""
    # Others are asked for, such as those of callbacks and profilers, or report which worker process died.
    for name in ("fabric.utilities", "pytorch.utilities", "pytorch.accelerators", "pytorch.trainer"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # which are slower, with images in memory
    warnings.filterwarnings("ignore", ".*module.s. in eval mode at the start of training.*")  # `freeze` asks for this
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")  # Lightning calls a deprecated name
