"""The commands, each a function of its flags."""

import atexit
import contextlib
import hashlib
import itertools
import logging
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from mnist_lightning import figures, images, reports, runs, sources
from mnist_lightning.arguments import CLI
from mnist_lightning.callbacks import Predictions, Scoreboard, show_confusion, tensorboard_logger
from mnist_lightning.checkpoints import find_best
from mnist_lightning.errors import DivergedError, in_one_line, needs_extra, one_line_errors
from mnist_lightning.files import UnwritableError
from mnist_lightning.images import Digit
from mnist_lightning.models import check_range
from mnist_lightning.runs import NEXT_STEP
from mnist_lightning.watch import Watch
from mnist_lightning.workers import end_with_parent

console = Console()


def fit(flags: Sequence[str]) -> None:
    """Trains a classifier; ends with its validation scores, the run's folder and the next commands."""
    cli = _prepare("fit", flags)
    if cli.notice:
        _say(cli.trainer, cli.notice)
    if cli.is_finished:
        _say(cli.trainer, f"the run of {cli.ckpt_path} is finished; nothing is left to train")
        return
    run_dir = _open_run_dir(cli)
    data, num_parameters = cli.datamodule, sum(p.numel() for p in cli.model.parameters())
    _say(
        cli.trainer,
        f"{type(cli.model).__name__} of {num_parameters:,} parameters on {data.dataset}: "
        f"{len(data.train_indices):,} images to train, {len(data.val_indices):,} to validate",
    )
    if cli.checkpoint:
        _say(cli.trainer, f"goes on from {cli.ckpt_path}, after {cli.checkpoint.num_epochs} epochs")
    _train(cli, run_dir)
    best = find_best(cli.trainer)
    if best and best.best_model_score is not None:
        num_images = 0 if cli.scoreboard.confusion is None else int(cli.scoreboard.confusion.sum())
        _say_scores(cli.trainer, "best epoch", best.best_model_score.item(), best.best_loss, num_images)
        flag = _flag("best", run_dir / "checkpoints" / "best.ckpt")
        _say(cli.trainer, f"trained in  {cli.scoreboard.seconds:.1f} s")
        _say(cli.trainer, f"run folder  {run_dir}")
        _say(cli.trainer, f"next        python -m mnist_lightning test{flag}")
        _say(cli.trainer, f"            tensorboard --logdir {shlex.quote(str(run_dir.parent))}")


def _train(cli: CLI, run_dir: Path) -> None:
    """Runs the trainer; what ends it before its time is told in a line, with the way to go on."""
    path = run_dir / "checkpoints" / "last.ckpt"

    def resume() -> str:
        return (
            f"python -m mnist_lightning fit{_flag('last', path)}"
            if path.exists()
            else "the same command, from its start"
        )

    with cli.claims, _told_in_a_line(cli, cli.scoreboard, resume):
        try:
            cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.ckpt_path, weights_only=True)
        except DivergedError as error:
            if cli.trainer.is_global_zero:  # all processes diverge
                print(f"error: {in_one_line(error)}", file=sys.stderr)
            raise SystemExit(2) from None
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            if not cli.checkpoint or cli.scoreboard.seconds:  # it has begun
                raise
            if not cli.checkpoint.run_dir and cli.scoreboard.run_dir:  # which this process has made
                shutil.rmtree(cli.scoreboard.run_dir)
            problem = f"{type(error).__name__} {in_one_line(error)}"
            text = f"error: checkpoint {cli.ckpt_path} does not hold what a resumed run needs ({problem}); {NEXT_STEP}"
            print(text, file=sys.stderr)
            raise SystemExit(2) from None


@contextlib.contextmanager
def _told_in_a_line(cli: CLI, watch: Watch, resume: Callable[[], str]) -> Iterator[None]:
    """Tells in a line what ends a call of the trainer before its time, and ends with the status that says so.

    Args:
        cli: Has the trainer.
        watch: Watches it.
        resume: Returns the command that goes on.
    """
    with watch.over(cli.trainer):
        try:
            yield
        except (SystemExit, KeyboardInterrupt):
            if not watch.stopped_by:
                raise
            done = f"after {len(watch.history)} epochs" if isinstance(watch, Scoreboard) else "with nothing written"
            _say(cli.trainer, f"stopped     {done}")
            _say(cli.trainer, f"goes on     {resume()}")
            raise SystemExit(128 + watch.stopped_by) from None
        except UnwritableError as error:
            print(f"error: {in_one_line(error)}", file=sys.stderr)
            raise SystemExit(2) from None
        except (OSError, RuntimeError) as error:
            if not (problem := watch.find_problem(error, cli.trainer)):
                raise
            print(f"error: {problem}; go on with {resume()}", file=sys.stderr)
            raise SystemExit(1) from None


def _flag(name: str, path: Path) -> str:
    """Returns the flag that names a checkpoint: `best` or `last` where that is the one."""
    with contextlib.suppress(FileNotFoundError):
        if runs.find(name, Path("lightning_logs"), is_resumed=name == "last") == path:
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
    with _told_in_a_line(cli, predictions, lambda: "the same command"):
        getattr(cli.trainer, command)(cli.model, cli.datamodule, verbose=False)
    if not cli.trainer.is_global_zero:
        return
    data, num_images = cli.datamodule, len(predictions.labels)
    scores = getattr(cli.model, f"{stage}_scores").compute()
    accuracy, loss = scores["accuracy"].item(), scores["loss"].item()
    _say(cli.trainer, f"checkpoint  {cli.ckpt_paths}")
    if _is_partial(cli, num_images, len(getattr(data, f"{stage}_indices"))):
        _say_scores(cli.trainer, f"{command} images", accuracy, loss, num_images)
        return
    versions = {package: version(package) for package in ("mnist_lightning", "torch", "lightning")}
    details = {"loss": loss, "dataset": data.dataset, "checkpoint": cli.ckpt_paths, "versions": versions}
    pictures = data.test_images.images if stage == "test" else data.train_images.images[data.val_indices]
    disputed = sources.DISPUTED if (data.dataset, stage) == ("MNIST", "test") else ()
    report = reports.classification_report(scores["confusion"], data.class_names, as_dict=True)
    _say_classes(f"{command} images", report, data.class_names, loss)
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
    _say(cli.trainer, f"report      {run_dir / stage}")


def _say_classes(what: str, report: dict[str, Any], class_names: Sequence[str], loss: float) -> None:
    columns = ("precision", "recall", "f1-score")
    table = Table("class", *columns, "images")
    for name in class_names:
        row = report[name]
        table.add_row(name, *(f"{row[column]:.2%}" for column in columns), f"{row['support']:,.0f}")
    console.print(table)
    total = Table("", "accuracy", "loss", "images")
    total.add_row(what, f"{report['accuracy']:.2%}", f"{loss:.4f}", f"{report['macro avg']['support']:,.0f}")
    console.print(total)


def predict(flags: Sequence[str]) -> None:
    """Writes a checkpoint's predictions for the test images, or for pictures of one's own, to a CSV.

    Raises:
        SystemExit: With status 3 if some of the pictures can't be read; the others are predicted.
    """
    predictions = Predictions()
    cli = _prepare("predict", flags, [predictions])
    pictures = _read_pictures(cli) if cli.config.images else None
    if pictures is not None and not pictures.found:
        _say(cli.trainer, f"not read    any of {len(pictures.paths):,} pictures; nothing is written")
        raise SystemExit(3)
    path = Path(cli.config.output or _open_run_dir(cli) / "predictions.csv")
    sheet = path.with_name(f"{path.stem}_sheet.png") if cli.config.output else path.with_suffix(".png")
    if pictures is not None:
        _check_targets([path, sheet], pictures.paths)
        _check_processes(cli, len(pictures.found))
    with _told_in_a_line(cli, predictions, lambda: "the same command"):
        cli.trainer.predict(cli.model, cli.datamodule, return_predictions=False)
    if not cli.trainer.is_global_zero:
        return
    class_names, more = cli.datamodule.class_names, {}
    if pictures is None:
        if _is_partial(cli, len(predictions.labels), len(cli.datamodule.test_indices)):
            return
        names = [f"{cli.datamodule.dataset}/test/{number}" for number in range(len(predictions.labels))]
        more["target"] = [class_names[label] for label in predictions.labels.tolist()]
    else:
        names = [str(source) for source, _ in pictures.found]
        if cli.config.digits == "many":
            for name in ("left", "top", "width", "height"):
                more[name] = [getattr(digit, name) for _, digit in pictures.found]
    with one_line_errors("predict"):
        unsure = reports.write_predictions(
            path, names, predictions.probabilities, class_names, more, cli.config.min_confidence
        )
        if pictures is not None:
            _show_pictures(cli, sheet, pictures, predictions.probabilities)
    if unsure:
        _say(cli.trainer, f"unsure      {unsure:,} of {len(names):,} are below {cli.config.min_confidence:.0%}")
    _say(cli.trainer, f"predictions {path}")
    if pictures is not None and pictures.num_unread:
        _say(cli.trainer, f"not read    {pictures.num_unread:,} of {len(pictures.paths):,} pictures")
        raise SystemExit(3)


def tune(flags: Sequence[str]) -> None:
    """Searches hyper-parameters; the same command on many machines with one storage is one search."""
    with one_line_errors("tune"):
        with needs_extra("tune"):
            from mnist_lightning import tuning
        say = partial(console.print, soft_wrap=True, highlight=False, markup=False)
        search, timeout_s = tuning.prepare(list(flags), say)
        try:
            search.run(timeout_s)
        except (KeyboardInterrupt, SystemExit) as error:
            say("stopped; the same command goes on")
            raise SystemExit(error.code if isinstance(error, SystemExit) else 130) from None


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
    _say(cli.trainer, f"checkpoint  {cli.ckpt_paths}")
    _say(
        cli.trainer,
        f"verified    {found.num_images:,} images, the same predictions, probabilities within "
        f"{found.largest_difference:.1e}, {found.accuracy:.2%} accuracy",
    )
    _say(cli.trainer, f"model       {path}, {path.stat().st_size / 1e6:.2f} MB")
    _say(cli.trainer, f"next        python -m mnist_lightning serve --model {path}")


class _Pictures(NamedTuple):
    paths: list[Path]
    found: list[tuple[Path, Digit]]
    num_unread: int


def _read_pictures(cli: CLI) -> _Pictures:
    """Puts the digits of the user's own pictures in the place of the dataset's test images."""
    with one_line_errors("predict"):
        check_range("min_confidence", cli.config.min_confidence, 0 <= cli.config.min_confidence <= 1, "between 0 and 1")
        paths = images.find_files(cli.config.images)
    many = cli.config.digits == "many"

    def look(path: Path) -> list[Digit] | Exception:
        try:
            return images.find_digits(path, many)
        except (ValueError, OSError) as error:
            return error

    found: list[tuple[Path, Digit]] = []
    num_unread = 0
    is_first = cli.trainer.is_global_zero
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # most of the work is numpy's, which lets other threads run
        progress = track(paths, "reading", console=console, transient=True, disable=not is_first)
        for path, digits in zip(progress, pool.map(look, paths), strict=True):
            if isinstance(digits, Exception):
                num_unread += 1
                if is_first:
                    print(f"not read: {digits}", file=sys.stderr)
            else:
                found += [(path, digit) for digit in digits]
    if found:
        cli.datamodule.use_test_images(torch.from_numpy(np.stack([digit.image for _, digit in found])))
    return _Pictures(paths, found, num_unread)


def _check_targets(targets: Sequence[Path], pictures: Sequence[Path]) -> None:
    taken = {path.resolve() for path in pictures}
    with one_line_errors("predict"):
        for target in targets:
            if target.resolve() in taken:
                raise ValueError(f"{target} is one of the --images and would be written over; give another --output")


def _check_processes(cli: CLI, num_images: int) -> None:
    with one_line_errors("predict"):
        if num_images < cli.trainer.world_size:
            raise ValueError(
                f"{num_images} images are too few for {cli.trainer.world_size} processes; give fewer devices"
            )


def _show_pictures(cli: CLI, sheet: Path, pictures: _Pictures, probabilities: Tensor) -> None:
    """Writes what the model saw beside the CSV; for lines of digits, says what they read."""
    confidences, indices = probabilities.max(1)
    names = [cli.datamodule.class_names[index] for index in indices.tolist()]
    figure = figures.contact_sheet([digit.image for _, digit in pictures.found], names, confidences.tolist())
    reports.write_figure(sheet, figure)
    if cli.config.digits == "many":
        for source, group in itertools.groupby(range(len(names)), key=lambda number: pictures.found[number][0]):
            lines = images.join_lines([(pictures.found[number][1], names[number]) for number in group])
            _say(cli.trainer, f"{source}: {' / '.join(lines)}")


def _is_partial(cli: CLI, num_images: int, num_expected: int) -> bool:
    if num_images < num_expected:
        _say(cli.trainer, f"only {num_images:,} of {num_expected:,} images were looked at; nothing is written")
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


def _say(trainer: Trainer, text: str) -> None:
    if trainer.is_global_zero:
        console.print(text, soft_wrap=True, highlight=False, markup=False)  # paths may look like markup


def _say_scores(trainer: Trainer, what: str, accuracy: float, loss: float, num_images: int) -> None:
    if trainer.is_global_zero:
        table = Table("", "accuracy", "loss", "images")
        table.add_row(what, f"{accuracy:.2%}", f"{loss:.4f}", f"{num_images:,}")
        console.print(table)


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
