"""Divergence: stops a run that learns nothing before its state replaces that of a better epoch."""

import math

from mnist_lightning.errors import UserError
from mnist_lightning.models import Classifier

PATIENCE = 100  # steps after which a model that has learned nothing is stopped


def check(row: dict[str, float], model: Classifier) -> None:
    """Raises a UserError if the loss of an epoch is not finite, or if its validation is not better than guessing."""
    chance = math.log(len(model.class_names))  # the loss of a uniform guess
    train_loss, val_loss = row["train/loss"], row.get("val/loss", 0.0)
    problem = ""
    if not math.isfinite(train_loss + val_loss):
        problem = f"the training loss is {train_loss:.3g}, the validation loss {val_loss:.3g}"
    elif row["step"] + 1 >= PATIENCE and val_loss > 0.98 * chance:
        predicted = model.confusion.sum(0).nonzero().flatten().tolist()
        if len(predicted) == 1:
            problem = f"every validation image is classified as {model.class_names[predicted[0]]!r}"
        elif val_loss >= 2 * chance:
            problem = f"the validation loss is {val_loss:.3g} (guessing: {chance:.2f})"
    if problem:
        rate = f"--model.init_args.learning_rate {model.learning_rate:g}, for example to {model.learning_rate / 10:.2g}"
        advice = f"lower {rate} (or --optimizer.lr, if an optimizer was chosen)"
        raise UserError(f"training diverged: after epoch {row['epoch'] + 1:.0f} {problem}; {advice}")
