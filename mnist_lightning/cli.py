"""The commands, each a function of its flags."""

import atexit
import contextlib
import hashlib
import logging
import os
import shlex
import shutil
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback
from PIL import Image

from mnist_lightning import reports, runs, sources
from mnist_lightning.arguments import CLI
from mnist_lightning.callbacks import Predictions, show_confusion, tensorboard_logger
from mnist_lightning.checkpoints import best_callback
from mnist_lightning.console import classes_table, program, say, scores_table
from mnist_lightning.errors import DivergedError, check_range, in_one_line, needs_extra, one_line_errors
from mnist_lightning.pictures import Pictures
from mnist_lightning.runs import NEXT_STEP
from mnist_lightning.workers import end_with_parent

NAMES = {"val": "validation", "test": "test"}


def fit(flags: Sequence[str]) -> None:
    """Trains a classifier; ends with its validation scores, the run's folder and the next commands."""
    cli = _prepare("fit", flags)
    if cli.notice:
        cli.say(cli.notice)
    if cli.is_finished:
        cli.say(f"the run of {cli.ckpt_path} is finished; nothing is left to train")
        return
    run_dir = _open_run_dir(cli)
    data, num_parameters = cli.datamodule, sum(p.numel() for p in cli.model.parameters())
    cli.say(
        f"{type(cli.model).__name__} of {num_parameters:,} parameters on {data.dataset}: "
        f"{len(data.train_indices):,} images to train, {len(data.val_indices):,} to validate"
    )
    if cli.checkpoint:
        cli.say(f"goes on from {cli.ckpt_path}, after {cli.checkpoint.num_epochs} epochs")
    _train(cli, run_dir)
    best = best_callback(cli.trainer)
    score = best.best_model_score if best else None
    if best and score is not None:
        num_images = 0 if cli.scoreboard.confusion is None else int(cli.scoreboard.confusion.sum())
        cli.say(scores_table("best epoch", score.item(), best.best_loss, num_images))
    cli.say(f"trained in  {cli.scoreboard.seconds:.1f} s")
    if cli.trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    cli.say(f"run folder  {run_dir}")
    if score is not None:
        cli.say(f"next        {program()} test{_flag('best', run_dir / 'checkpoints' / 'best.ckpt')}")
        cli.say(f"            tensorboard --logdir {shlex.quote(str(run_dir.parent))}")


def _train(cli: CLI, run_dir: Path) -> None:
    """Runs the trainer; what ends it before its time is told in a line, with the way to go on."""
    path = run_dir / "checkpoints" / "last.ckpt"

    def resume() -> str:
        return f"{program()} fit{_flag('last', path)}" if path.exists() else "the same command, from its start"

    with cli.claims, cli.scoreboard.told(cli.trainer, resume):
        try:
            cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.ckpt_path, weights_only=True)
        except DivergedError as error:
            if cli.trainer.is_global_zero:  # all processes diverge
                print(f"error: {in_one_line(error)}", file=sys.stderr)
            raise SystemExit(2) from None
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            is_restoring = any("restore" in frame.name for frame in traceback.extract_tb(error.__traceback__))
            if not cli.checkpoint or not is_restoring:  # an error of the user's own
                raise
            if not cli.checkpoint.run_dir and cli.scoreboard.run_dir:  # which this process has made
                shutil.rmtree(cli.scoreboard.run_dir)
            problem = f"{type(error).__name__} {in_one_line(error)}"
            text = f"error: checkpoint {cli.ckpt_path} does not hold what a resumed run needs ({problem}); {NEXT_STEP}"
            print(text, file=sys.stderr)
            raise SystemExit(2) from None


def _flag(name: str, path: Path) -> str:
    """Returns the flag that names a checkpoint: `best` or `last` where that is the one."""
    with contextlib.suppress(FileNotFoundError):
        if runs.find(name, runs.LOGS_DIR, is_resumed=name == "last") == path:
            return "" if name == "best" else f" --ckpt_path {name}"
    return f" --ckpt_path {shlex.quote(str(path))}"


def validate(flags: Sequence[str]) -> None:
    """Scores a checkpoint on the validation images."""
    _score("validate", "val", flags)


def test(flags: Sequence[str]) -> None:
    """Scores a checkpoint on the test images, with a report."""
    _score("test", "test", flags)


def _score(command: str, stage: str, flags: Sequence[str]) -> None:
    predictions = Predictions()
    cli = _prepare(command, flags, [predictions])
    run_dir = _open_run_dir(cli)
    with predictions.told(cli.trainer, lambda: "the same command"):
        getattr(cli.trainer, command)(cli.model, cli.datamodule, verbose=False)
    if not cli.trainer.is_global_zero:
        return
    data, num_images = cli.datamodule, len(predictions.labels)
    scores = getattr(cli.model, f"{stage}_scores").compute()
    accuracy, loss = scores["accuracy"].item(), scores["loss"].item()
    cli.say(f"checkpoint  {cli.ckpt_paths}")
    if _is_partial(cli, num_images, len(getattr(data, f"{stage}_indices"))):
        cli.say(scores_table(f"{NAMES[stage]} images", accuracy, loss, num_images))
        return
    versions = {package: version(package) for package in ("mnist_lightning", "torch", "lightning")}
    details = {"loss": loss, "dataset": data.dataset, "checkpoint": cli.ckpt_paths, "versions": versions}
    pictures = data.test_images.images if stage == "test" else data.train_images.images[data.val_indices]
    disputed = sources.DISPUTED if (data.dataset, stage) == ("MNIST", "test") else ()
    report = reports.classification_report(scores["confusion"], data.class_names, as_dict=True)
    cli.say(classes_table(report, data.class_names))
    cli.say(scores_table(f"{NAMES[stage]} images", accuracy, loss, num_images))
    with one_line_errors(command):
        reports.write_report(
            run_dir / stage,
            pictures,
            predictions.labels,
            predictions.probabilities,
            data.class_names,
            details,
            disputed,
        )
    if stage == "test":
        logger, step = tensorboard_logger(run_dir), cli.checkpoint.num_steps if cli.checkpoint else 0
        logger.log_metrics({"test/accuracy": accuracy, "test/loss": loss}, step)
        show_confusion(logger, stage, scores, cli.model, step)
        for name in ("mistakes", "reliability"):
            image = np.asarray(Image.open(run_dir / stage / f"{name}.png").convert("RGB"))
            logger.experiment.add_image(f"test/{name}", image, step, dataformats="HWC")
        logger.finalize("success")
    cli.say(f"report      {run_dir / stage}")


def predict(flags: Sequence[str]) -> None:
    """Writes a checkpoint's predictions for the test images, or for pictures of one's own, to a CSV.

    Raises:
        SystemExit: With status 3 if some of the pictures can't be read; the others are predicted.
    """
    predictions = Predictions()
    cli = _prepare("predict", flags, [predictions])
    threshold = cli.config.min_confidence
    with one_line_errors("predict"):
        check_range("min_confidence", threshold, 0 <= threshold <= 1, "between 0 and 1")
        pictures = _read_pictures(cli) if cli.config.images else None
    path = Path(cli.config.output or _open_run_dir(cli) / "predictions.csv")
    sheet = path.with_name(f"{path.stem}_sheet.png") if cli.config.output else path.with_suffix(".png")
    if pictures:
        with one_line_errors("predict"):
            pictures.check_targets([path, sheet])
    with predictions.told(cli.trainer, lambda: "the same command"):
        cli.trainer.predict(cli.model, cli.datamodule, return_predictions=False)
    data, probabilities = cli.datamodule, predictions.probabilities
    if not cli.trainer.is_global_zero or _is_partial(cli, len(probabilities), len(data.test_indices)):
        return
    if pictures:
        names = [str(picture) for picture, _ in pictures.digits]
        more = pictures.places() if cli.config.digits == "many" else {}
    else:
        names = [f"{data.dataset}/test/{number}" for number in range(len(probabilities))]
        more = {"target": [data.class_names[label] for label in predictions.labels.tolist()]}
    with one_line_errors("predict"):
        unsure = reports.write_predictions(path, names, probabilities, data.class_names, more, threshold)
        if pictures:
            confidences, classes = probabilities.max(1)
            texts = [data.class_names[number] for number in classes.tolist()]
            pictures.write_sheet(sheet, texts, confidences.tolist())
            if cli.config.digits == "many":
                for line in pictures.lines(texts):
                    cli.say(line)
    if unsure:
        cli.say(f"unsure      {unsure:,} of {len(names):,} are below {threshold:.0%}")
    cli.say(f"predictions {path}")
    if pictures and pictures.num_unread:
        cli.say(f"not read    {pictures.num_unread:,} of {len(pictures.paths):,} pictures")
        raise SystemExit(3)


def _read_pictures(cli: CLI) -> Pictures:
    """Puts the digits of the user's own pictures in the place of the dataset's test images."""
    pictures = Pictures.read(cli.config.images, cli.config.digits == "many", cli.trainer.is_global_zero)
    if not pictures.digits:
        cli.say(f"not read    any of {len(pictures.paths):,} pictures; nothing is written")
        raise SystemExit(3)
    if len(pictures.digits) < cli.trainer.world_size:
        found = f"{len(pictures.digits)} images are too few for {cli.trainer.world_size} processes"
        raise ValueError(f"{found}; give fewer devices")
    cli.datamodule.use_test_images(pictures.as_images())
    return pictures


def tune(flags: Sequence[str]) -> None:
    """Searches hyper-parameters; the same command on many machines with one storage is one search."""
    with one_line_errors("tune"):
        with needs_extra("tune"):
            from mnist_lightning import tuning
        search, timeout_s = tuning.prepare(list(flags), say)
        try:
            search.run(timeout_s)
        except KeyboardInterrupt:
            say("stopped; the same command goes on")
            raise


def export(flags: Sequence[str]) -> None:
    """Writes a checkpoint as one ONNX file, once it has been seen to predict the same."""
    with one_line_errors("export"), needs_extra("export"):
        from mnist_lightning.export import export_onnx
    cli = _prepare("export", flags)
    data, path = cli.datamodule, Path(cli.config.output)
    details = {
        "model": type(cli.model).__name__,
        "dataset": data.dataset,
        "checkpoint": cli.ckpt_paths,
        "checkpoint_sha256": ", ".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in cli.checkpoint_files),
        **{package: version(package) for package in ("mnist_lightning", "torch")},
    }
    with one_line_errors("export"):
        found = export_onnx(cli.model, path, data.test_images.images, data.test_images.labels, details)
    cli.say(f"checkpoint  {cli.ckpt_paths}")
    cli.say(
        f"verified    {found.num_images:,} images, the same predictions, probabilities within "
        f"{found.largest_difference:.1e}, {found.accuracy:.2%} accuracy"
    )
    cli.say(f"model       {path}, {path.stat().st_size / 1e6:.2f} MB")
    cli.say(f"next        {program()} serve --model {path}")


def _is_partial(cli: CLI, num_images: int, num_expected: int) -> bool:
    if num_images < num_expected:
        cli.say(f"only {num_images:,} of {num_expected:,} images were looked at; nothing is written")
    return num_images < num_expected


def _prepare(command: str, flags: Sequence[str], callbacks: Sequence[Callback] = ()) -> CLI:
    if os.environ.get("LOCAL_RANK", "0") != "0":
        end_with_parent()
    with one_line_errors(command):
        cli = CLI(command, flags, callbacks)
        output = Path(cli.config.get("output") or "predictions.csv")
        if output.is_dir() or (not output.absolute().parent.is_dir() and output.absolute().parent.exists()):
            raise ValueError(f"--output {output} is a folder or lies in a file; give a file to write")
        cli.datamodule.setup(command)
        return cli


def _open_run_dir(cli: CLI) -> Path:
    with one_line_errors(cli.command):
        return cli.open_run_dir()


@atexit.register
def _close_process_group() -> None:
    """Ends what joins several processes while Python still runs; left to its end, gloo's threads may abort it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


# Lightning's notices: which seed was set, what hardware was found, and advertisements for its products.
for name in ("lightning.fabric", "lightning.pytorch"):
    logging.getLogger(name).setLevel(logging.WARNING)
for message in (
    # Loading images from memory in other processes is slower, not faster.
    ".*does not have many workers.*",
    # Lightning calls torch's pytree by a deprecated name; harmless in the versions that its bounds admit.
    ".*isinstance.treespec, LeafSpec.*",
):
    warnings.filterwarnings("ignore", message=message)
