"""A command's model, data and trainer: what flags say, and what a checkpoint adds to them."""

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO

from mnist_lightning import checkpoints, recipes, runs
from mnist_lightning.callbacks import ProgressBar, Scoreboard, tensorboard_logger
from mnist_lightning.console import say
from mnist_lightning.data import MNISTDataModule
from mnist_lightning.ensemble import Ensemble
from mnist_lightning.files import read_settings, write_atomically
from mnist_lightning.flags import checkpoint_place, recipes_first, settings_files, with_lists
from mnist_lightning.models import Classifier, class_path, known_classes

FOUND = "MNIST_LIGHTNING_CHECKPOINT"
"""The environment variable by which processes that this one starts know its checkpoint."""
LINKED = ("class_names", "mean", "std")
"""What the model takes from the data, so that a checkpoint alone can rebuild it."""
TRAINER_DEFAULTS = {
    "max_epochs": 5,
    "num_sanity_val_steps": 0,  # the first validation comes within seconds
    "enable_model_summary": False,
    "log_every_n_steps": 0,  # scores are logged by epoch
    "logger": True,
}


class CLI(LightningCLI):
    """Parses a command's flags and builds model, data and trainer from them.

    Flags win over recipes, recipes over what a checkpoint says, and that over the defaults in the signatures.

    Args:
        command: `fit`, `validate`, `test`, `predict` or `export`.
        flags: Its flags.
        callbacks: What else watches the run.

    Attributes:
        checkpoint: The checkpoint to start from, or None for a `fit` from scratch.
        scoreboard: Watches a `fit`.
        notice: What the user should know about the checkpoint.
        claims: Holds the run folder of a `fit`, for as long as it is open.
    """

    checkpoint: checkpoints.Checkpoint | None = None
    notice = ""

    def __init__(self, command: str, flags: Sequence[str], callbacks: Sequence[Callback] = ()) -> None:
        self.command = command
        self.callbacks = callbacks
        self.scoreboard = Scoreboard()
        self.claims = contextlib.ExitStack()
        try:
            super().__init__(
                Classifier,
                MNISTDataModule,
                save_config_callback=None,
                trainer_defaults=dict(TRAINER_DEFAULTS),  # this run's callbacks join it
                seed_everything_default=0,
                parser_kwargs={"prog": f"mnist_lightning {command}", "exit_on_error": False, "allow_abbrev": False},
                subclass_mode_model=True,
                args=list(flags),
                run=False,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
            )
        except MisconfigurationException as error:
            raise ValueError(str(error)) from error

    def say(self, text: object) -> None:
        """Tells the user something, once, however many processes there are."""
        if self.trainer.is_global_zero:
            say(text)

    @property
    def ckpt_path(self) -> Path | None:
        """The file of the checkpoint to start from."""
        return self.checkpoint.path if self.checkpoint else None

    @property
    def ckpt_paths(self) -> str:
        """The checkpoint or, for an ensemble, the checkpoints that the model comes from."""
        return ", ".join(map(str, self.checkpoint_files))

    @property
    def checkpoint_files(self) -> list[Path]:
        """The files of the checkpoint or, for an ensemble, of its members."""
        if isinstance(self.model, Ensemble):
            return [Path(path) for path in self.model.ckpt_paths]
        return [self.checkpoint.path] if self.checkpoint else []

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what Lightning's own parser lacks."""
        for name in LINKED:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        default = "a new model" if self.command == "fit" else "best"
        text = f"Checkpoint: a file, best or last of the newest run, or pretrained (default: {default})."
        parser.add_argument("--ckpt_path", type=str | None, default=None, help=text)
        if self.command == "export":
            parser.add_argument("--output", type=str, default="model.onnx", help="ONNX file to write.")
        if self.command == "predict":
            text = "CSV file to write (default: predictions.csv in the run's folder)."
            parser.add_argument("--output", type=str | None, default=None, help=text)
            text = "Pictures of your own: files, folders, patterns (default: the dataset's test images)."
            parser.add_argument("--images", type=list[str] | None, default=None, help=text)
            text = "Whether a picture holds one digit, or lines of many separate ones."
            parser.add_argument("--digits", type=Literal["one", "many"], default="one", help=text)
            text = "Predictions that are less sure than this, in [0, 1], are left empty."
            parser.add_argument("--min_confidence", type=float, default=0.0, help=text)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the flags, with a checkpoint's values as defaults."""
        for name in LINKED:
            if any(arg.startswith((f"--model.init_args.{name}", f"--model.{name}")) for arg in args):
                raise ValueError(
                    f"--model.init_args.{name} is taken from the data; see the flags that begin with --data"
                )
        args = with_lists(recipes_first(args))
        for path in settings_files(args):
            read_settings(path)  # or what parses flags would run out of memory on some
        place = checkpoint_place(args)  # an ensemble's members know the data
        self._read_checkpoint(*place)
        self.config = self._parse(parser, args)
        if self.config.model.class_path == class_path(Ensemble):
            self._check_ensemble()
            return
        if place != (self.config.ckpt_path, self.config.trainer.default_root_dir):  # a recipe names them
            self._read_checkpoint(self.config.ckpt_path, self.config.trainer.default_root_dir)
            self.config = self._parse(parser, args)
        if self.problem:
            raise self.problem

    def _check_ensemble(self) -> None:
        if self.command == "fit":
            raise ValueError("an Ensemble is made of trained checkpoints; train each with a fit of its own")
        if self.config.ckpt_path:
            raise ValueError("an Ensemble has its weights from --model.init_args.ckpt_paths; leave out --ckpt_path")
        self.checkpoint = None
        options = self.config.model.init_args
        if options.ckpt_paths:
            logs_dir = Path(self.config.trainer.default_root_dir or ".") / runs.LOGS_DIR
            options.ckpt_paths = [str(runs.find(path, logs_dir)) for path in options.ckpt_paths]

    def _read_checkpoint(self, ckpt_path: str | None, root_dir: str | None) -> None:
        ckpt_path = ckpt_path or (None if self.command == "fit" else "best")
        if ckpt_path in ("best", "last") and os.environ.get("LOCAL_RANK", "0") != "0":
            ckpt_path = os.environ.get(FOUND, ckpt_path)  # which may not be the newest run's by now
        logs_dir = Path(root_dir or ".") / runs.LOGS_DIR
        self.problem: Exception | None = None
        try:
            path = runs.find(ckpt_path, logs_dir, is_resumed=self.command == "fit") if ckpt_path else None
            self.checkpoint = self._read(path) if path else None
            os.environ |= {FOUND: str(self.checkpoint.path)} if self.checkpoint else {}
        except (OSError, ValueError) as error:
            self.problem = error  # told after --help and wrong flags had their turn

    def _read(self, path: Path) -> checkpoints.Checkpoint:
        try:
            return checkpoints.read(path)
        except ValueError as error:
            best = path.with_name("best.ckpt")
            if not (path.name == "last.ckpt" and self.command == "fit" and best.is_file()):
                raise
            found = checkpoints.read(best)
            self.notice = f"{str(error).split(';')[0]}; {best} takes its place"
            return found

    def _parse(self, parser: LightningArgumentParser, args: list[str]) -> Any:
        default: dict[str, Any] = {"class_path": "mnist_lightning.models.CNN"}
        stored_model: dict[str, Any] | None = None
        if stored := self.checkpoint:
            options = {name: value for name, value in stored.model_options.items() if name not in LINKED}
            stored_model = {"class_path": stored.model_class, "init_args": options}
            if stored.model_class in known_classes():  # nothing is imported because a file says so
                default = stored_model
            if self.command == "fit" and stored.recipe:  # a resumed run has the settings it began with
                args = ["--config", recipes.without_classes(stored.recipe), *args]
            else:
                _set_data_defaults(parser, stored)
        parser.set_defaults({"model": default})
        try:
            # --print_config would end the program here, before it is known which class is chosen.
            chosen = parser.parse_args([arg for arg in args if not arg.startswith("--print_config")]).model.class_path
            if chosen != default["class_path"]:
                # jsonargparse would carry the default class's arguments over to the chosen one.
                is_stored = stored_model is not None and chosen == stored_model["class_path"]
                parser.set_defaults({"model": stored_model if is_stored else None})
            config = parser.parse_args(args)
            config.trainer.items()
        except AttributeError as error:
            raise ValueError("trainer, model and data in a recipe must each be a mapping of names to values") from error
        return config

    def instantiate_classes(self) -> None:
        """Builds model, data and trainer, and loads the checkpoint's weights."""
        super().instantiate_classes()
        if stored := self.checkpoint:
            self._check_that_flags_fit(stored)
            try:
                self.model.load_state_dict(stored.weights)
            except RuntimeError as error:
                mismatch = str(error).splitlines()[1].strip()
                raise ValueError(
                    f"checkpoint {stored.path} doesn't fit the model that the flags describe ({mismatch}); "
                    "leave out the flags that change its shape"
                ) from error

    def _check_that_flags_fit(self, stored: checkpoints.Checkpoint) -> None:
        chosen, names = type(self.model), self.datamodule.class_names
        if class_path(chosen) != stored.model_class:
            raise ValueError(
                f"checkpoint {stored.path} holds a {stored.model_class}, not a {chosen.__name__}; "
                f"give --model {stored.model_class}"
            )
        stored_names = stored.model_options.get("class_names", ())
        if len(stored_names) != len(names):
            raise ValueError(
                f"checkpoint {stored.path} knows {len(stored_names)} classes and {self.datamodule.dataset} has "
                f"{len(names)}; choose another --data.dataset or --ckpt_path"
            )
        if self.command == "fit" and not stored.is_resumable:
            raise ValueError(f"checkpoint {stored.path} holds weights alone, so that training can't go on from it")
        if self.command == "fit" and stored.recipe:
            recipes.check_same(stored.path, stored.recipe, self.parser.dump(self.config, skip_none=False))

    @property
    def is_finished(self) -> bool:
        """Whether the run to go on with has come to its end."""
        limits, stored = self.config.trainer, self.checkpoint
        if stored and stored.run_dir:
            return runs.is_finished(stored.run_dir)
        return stored is not None and (
            0 <= (limits.max_epochs or -1) <= stored.num_epochs or 0 <= limits.max_steps <= stored.num_steps
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer with this package's callbacks, less those that the flags switch off."""
        config = self.config_init.trainer
        if config.overfit_batches:
            raise ValueError(
                f"--trainer.overfit_batches {config.overfit_batches} would replace the order of images; "
                "use --trainer.limit_train_batches"
            )
        if self.command == "fit" and config.max_epochs == -1 and config.max_steps == -1:
            raise ValueError("--trainer.max_epochs -1 has no end, and the one-cycle schedule needs one; give 1 or more")
        if self.command == "fit" and config.max_epochs == 0:
            raise ValueError("--trainer.max_epochs 0 leaves nothing to do; give 1 or more")
        if isinstance(config.strategy, str) and re.search("spawn|fork|notebook", config.strategy):
            raise ValueError(f"--trainer.strategy {config.strategy} keeps a run's scores to itself; give ddp instead")
        for name in ("train", "val", "test", "predict"):
            if config[f"limit_{name}_batches"] == 0:
                raise ValueError(f"--trainer.limit_{name}_batches 0 leaves nothing to do; give 1 or more")
        callbacks = [*self.callbacks]
        if config.enable_progress_bar is not False:
            callbacks.append(ProgressBar())
        if self.command == "fit":
            callbacks.append(self.scoreboard)
            if config.enable_checkpointing is not False and not config.fast_dev_run:
                stored = self.checkpoint.recipe if self.checkpoint else ""
                callbacks.append(checkpoints.BestCheckpoint(stored or self.parser.dump(self.config, skip_none=False)))
        self.trainer_defaults["callbacks"] = callbacks
        given = config.plugins or []
        kwargs["plugins"] = [*given] if isinstance(given, list) else [given]
        if not any(isinstance(plugin, CheckpointIO) for plugin in kwargs["plugins"]):
            kwargs["plugins"].append(checkpoints.DurableIO())
        if not torch.cuda.is_available():
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"  # with Lightning's 1, each step looks for a GPU anew
        # This package's loggers come with the run folder, which is not made before all input has been checked.
        self.has_own_loggers = config.logger is True and not config.fast_dev_run
        try:
            return super().instantiate_trainer(**kwargs, **({"logger": False} if self.has_own_loggers else {}))
        except (MisconfigurationException, ImportError, TypeError, ValueError) as error:
            names = ("accelerator", "devices", "strategy")
            given = [f"--trainer.{name} {config[name]}" for name in names if config[name] != "auto"]
            advice = "; --trainer.accelerator auto takes what is there" if given else ""
            raise ValueError(f"{' '.join(given) or '--trainer'}: {str(error).rstrip('!.')}{advice}") from error

    def open_run_dir(self) -> Path:
        """Makes a folder for the run, or takes the one of the checkpoint's run, and lets the loggers write to it.

        Raises:
            OSError: The folder can't be written.
            ValueError: Another process trains in it.
        """
        logs_dir = Path(self.trainer.default_root_dir) / runs.LOGS_DIR
        with contextlib.suppress(ValueError):
            logs_dir = logs_dir.relative_to(Path.cwd())
        stored_dir = self.checkpoint.run_dir if self.checkpoint else None
        if stored_dir and self.command != "fit":
            return stored_dir
        if not self.trainer.is_global_zero or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return stored_dir or logs_dir / "version_0"  # nothing is written there
        run_dir = stored_dir or runs.make_run_dir(logs_dir)
        if best := checkpoints.best_callback(self.trainer):
            best.dirpath = str(run_dir / "checkpoints")
        if self.command == "fit":
            self.claims.enter_context(runs.claim(run_dir))
            self.scoreboard.run_dir = run_dir
            try:
                self._record_start(run_dir)
                if not stored_dir:  # a resumed run goes on by the settings that it began with
                    write_atomically(run_dir / "config.yaml", self.parser.dump(self.config, skip_none=False))
            except OSError:
                if not stored_dir:
                    shutil.rmtree(run_dir, ignore_errors=True)
                raise
            if self.has_own_loggers:
                # What a run that was cut off wrote of the epoch after its checkpoint is forgotten, and of the last one
                # before, whose end it may not have seen; the scoreboard knows that one.
                purge_step = max(0, self.checkpoint.num_steps - 1) if stored_dir and self.checkpoint else None
                self.trainer.loggers = [tensorboard_logger(run_dir, purge_step)]
        return run_dir

    def _record_start(self, run_dir: Path) -> None:
        runs.record_start(
            run_dir,
            seed=os.environ.get("PL_GLOBAL_SEED"),
            device=str(self.trainer.strategy.root_device),
            processes=self.trainer.world_size,
            threads=torch.get_num_threads(),
            processor=torch.backends.cpu.get_cpu_capability(),
        )


def _set_data_defaults(parser: LightningArgumentParser, stored: checkpoints.Checkpoint) -> None:
    try:
        parser.set_defaults(recipes.flatten(stored.data_options, "data"))
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"checkpoint {stored.path} was written by another version ({error})") from error
