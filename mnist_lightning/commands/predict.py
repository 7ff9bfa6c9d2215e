"""The command `predict`: predictions for the test images, or for the user's own images, as a CSV file."""

import itertools
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.cli import LightningArgumentParser
from rich.progress import track

from mnist_lightning.arguments.cli import CLI
from mnist_lightning.commands import evaluation
from mnist_lightning.console import console, echo
from mnist_lightning.errors import UserError, check_range
from mnist_lightning.images import MIN_KNOWN, Digit, InputFormat, choose, join_lines
from mnist_lightning.images.reading import find_files
from mnist_lightning.reporting import reports, sheets

MIN_HEIGHT = 16  # pixels of a digit that can be read reliably

Digits = list[tuple[Path, Digit]]  # each digit with the file that it was found in, in order; none: the test images


def _add_flags(parser: LightningArgumentParser) -> None:
    parser.add_argument("--output", type=str | None, default=None)
    parser.add_argument("--images", type=list[str] | None, default=None)
    parser.add_argument("--digits", type=Literal["one", "many"], default="one")
    parser.add_argument("--min_confidence", type=float, default=0.0)


def predict(flags: Sequence[str]) -> None:
    """Writes a checkpoint's predictions to a CSV file; exits with status 3 if some images can't be read."""
    predictions = evaluation.Predictions()
    cli = CLI("predict", flags, [predictions], _add_flags)
    options, data, inputs = cli.config, cli.datamodule, cli.model.inputs
    check_range("--min_confidence", options.min_confidence, 0 <= options.min_confidence <= 1, "between 0 and 1")
    output, files = Path(options.output or ""), find_files(options.images or [])
    if options.digits == "many" and not (files and inputs.is_handwriting):
        raise UserError(f"--digits many needs --images and a model of handwriting; this one learned {data.dataset}")
    for path in (output, output.parent / f"{output.stem}_sheet.png") if options.output else ():
        if path.resolve() in {file.resolve() for file in files}:
            raise UserError(f"{path} is one of the --images and would be overwritten; choose another --output")
    digits = _read(files, inputs, many=options.digits == "many") if files else []
    if digits:
        if len(digits) < (num_processes := cli.trainer.world_size):
            raise UserError(f"{len(digits)} digits are too few for {num_processes} processes; lower --trainer.devices")
        data.test_images = torch.from_numpy(np.stack([digit.image for _, digit in digits]))
        data.test_labels = torch.zeros(len(digits), dtype=torch.uint8)  # unknown
    data.setup("predict")
    if not evaluation.run(cli):
        return
    _write(cli, predictions, digits, output if options.output else cli.find_or_make_run_dir() / "predictions.csv")
    if num_unreadable := len(set(files) - {path for path, _ in digits}):
        echo(f"unreadable  {num_unreadable:,} of {len(files):,} images")
        raise SystemExit(3)


def _read(files: Sequence[Path], inputs: InputFormat, many: bool) -> Digits:
    """Reads images, or finds the digits in them, several at a time; reports and skips those that can't be read."""
    found: Digits = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, ExitStack() as stack:  # numpy releases the GIL
        stack.callback(pool.shutdown, cancel_futures=True)  # after Ctrl-C
        pending = [(path, pool.submit(inputs.read, path, many)) for path in files]
        for path, digits in track(pending, "reading", console=console, transient=True):
            try:
                start = found[-1][1].stop if found else 0  # one chain of possible cuts goes through all pictures
                found += [(path, replace(d, start=start + d.start, stop=start + d.stop)) for d in digits.result()]
            except (UserError, OSError) as error:
                if not console.quiet:
                    print(f"unreadable: {error}", file=sys.stderr)
    if not found:
        echo(f"unreadable  {len(files):,} of {len(files):,} images; nothing was written")
        raise SystemExit(3)
    return found


def _write(cli: CLI, predictions: evaluation.Predictions, digits: Digits, path: Path) -> None:
    """Writes the CSV file and, for the user's own images, a contact sheet of what the model saw."""
    options, data, inputs, probabilities = cli.config, cli.datamodule, cli.model.inputs, predictions.probabilities
    if not digits:
        confidences = probabilities.amax(1).tolist()
        sources = [f"{data.dataset}/test/{index}" for index in range(len(probabilities))]
        extra: dict[str, list[Any]] = {"target": [data.class_names[label] for label in predictions.labels.tolist()]}
    else:
        indices, confidences = choose([digit for _, digit in digits], probabilities.numpy())
        digits, probabilities = [digits[index] for index in indices], probabilities[indices]
        sources = [str(file) for file, _ in digits]
        names = ("left", "top", "width", "height") if options.digits == "many" else ()
        extra = {name: [getattr(digit, name) for _, digit in digits] for name in names}
    texts = [data.class_names[index] for index in probabilities.argmax(1).tolist()]
    doubt = len(data.class_names) * probabilities.double().amin(1).numpy()  # the classes share it equally
    known = 1 - inputs.is_handwriting * doubt
    conditions = [known < (MIN_KNOWN if digits else 0), np.array(confidences) < options.min_confidence]
    reasons = np.select(conditions, ["no digit", "unsure"], "").tolist()
    answers = ["" if reason else text for text, reason in zip(texts, reasons, strict=True)]
    columns = {"source": sources, "prediction": answers, "confidence": confidences}
    columns |= {f"p{index}": column for index, column in enumerate(probabilities.T.tolist())}
    columns |= {**extra, "known": known.tolist(), "reason": reasons}
    reports.write_table(path, columns)
    if options.digits == "many":
        for file, group in itertools.groupby(zip(digits, answers, strict=True), key=lambda item: item[0][0]):
            echo(f"{file}: {' / '.join(join_lines([(digit, text or '?') for (_, digit), text in group]))}")
    limit, num_small = options.min_confidence or sheets.UNSURE, sum(d.height < MIN_HEIGHT for _, d in digits)
    for count, problem in (
        (sum(confidence < limit for confidence in confidences), f"have a confidence below {limit:g}"),
        (reasons.count("no digit"), "are left empty, as the picture shows no digit"),
        (num_small, f"are of digits less than {MIN_HEIGHT} pixels high"),
    ):
        if count:
            echo(f"uncertain   {count:,} of {len(texts):,} predictions {problem}")
    echo(f"predictions {path}")
    if digits and str(path) != "-":
        sheet, images = path.with_name(f"{path.stem}_sheet.png"), [digit.image for _, digit in digits]
        lines = [digit.line for _, digit in digits] if options.digits == "many" else []
        reports.write_figure(sheet, sheets.contact_sheet(images, texts, confidences, sources, lines, limit))
        echo(f"sheet       {sheet}, with what the model saw")
