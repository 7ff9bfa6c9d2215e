"""The command `fit`: trains a classifier."""

from collections.abc import Sequence

from mnist_lightning.arguments.cli import CLI
from mnist_lightning.console import command_line, echo
from mnist_lightning.training import interruptions


def fit(flags: Sequence[str]) -> None:
    """Trains a classifier, and prints the validation result, the run folder and the next command."""
    cli = CLI("fit", flags)
    model, data, trainer, history = cli.model, cli.datamodule, cli.trainer, cli.history
    history.is_verbose = True
    data.setup("fit")  # missing data is reported before there is a run folder
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    images = f"{len(data.train_indices):,} training and {len(data.val_indices):,} validation images"
    echo(f"{type(model).__name__} with {num_parameters:,} parameters on {data.dataset}: {images}")
    if cli.precision_note:
        echo(f"precision   {cli.precision_note}")
    if cli.origin:
        new = f", with a new last layer for {len(data.class_names)} other classes" if cli.has_new_head else ""
        echo(f"starting    from {cli.origin.path}{new}")
    if stored := cli.checkpoint:
        echo(f"resuming    {stored.path}, completed epochs: {stored.num_epochs}")
    with cli.open_run() as run_dir:
        try:
            with interruptions.handled(trainer):
                trainer.fit(model, data, ckpt_path=stored.path if stored else None, weights_only=True)
        except KeyboardInterrupt:
            echo(f"stopped     completed epochs: {len(history.rows)}")
            if run_dir and (last := run_dir / "checkpoints" / "last.ckpt").exists():
                echo(f"resume      {command_line('fit', '--ckpt_path', last)}")
            raise
    echo(f"trained in  {history.seconds:.1f} s")
    if best := history.best:
        name = f"{best['epoch'] + 1:.0f} of {len(history.rows)}"
        echo(f"best epoch  {name}: validation accuracy {best['val/accuracy']:.2%}, loss {best['val/loss']:.4f}")
    if run_dir:
        echo(f"run folder  {run_dir}")
        if (best_path := run_dir / "checkpoints" / "best.ckpt").exists():
            echo(f"next        {command_line('test', '--ckpt_path', best_path)}")
            echo(f"            tensorboard --logdir {run_dir.parent}")
