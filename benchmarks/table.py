"""The published tables, made from the files in `results/`: `python -m benchmarks.table` prints them."""

import csv
import json
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks import accuracy
from benchmarks.measure import RESULTS_DIR

RECIPES = ("cnn", "cnn_best", "cnn_best_ensemble", "cnn_fast", "mlp", "mlp_augmented")


def read(name: str) -> dict[str, Any]:
    """Returns what a benchmark wrote."""
    result: dict[str, Any] = json.loads((RESULTS_DIR / f"{name}.json").read_text())
    return result


def as_markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table as Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *rows))


def speeds() -> list[tuple[str, str, str]]:
    """Returns what was measured, as a ratio and in seconds."""
    found = []
    for row in read("epoch_time")["rows"]:
        if row["batch size"] != 128:
            continue  # the file has them
        what = f"an epoch of the {row['model']} in batches of {row['batch size']}, beside a raw loop"
        found.append((what, f"{row['package / raw']['median']:.2f}", f"{row['package s']['median']:.1f}"))
        what = "the same the stock way (`DataLoader`, transforms, `self.log` each step), beside this package"
        found.append((what, f"{row['stock / package']['median']:.1f}", f"{row['stock s']['median']:.1f}"))
    fast = read("time_to_99")["rows"][-1]
    seconds = fast["whole process s"]["median"] - fast["training s"]["median"]
    ratio = f"{fast['outside training / import']['median']:.2f}"
    accuracy = f"`cnn_fast.yaml`, ten seeds: {fast['test accuracy %']} % on the test images; training"
    found.append((accuracy, "", f"{fast['training s']['median']:.1f}"))
    found.append(("all else of that process, beside `import lightning.pytorch`", ratio, f"{seconds:.1f}"))
    for row in read("startup")["rows"]:
        if row["command"] in ("--help", "test", "predict, one picture"):
            ratio, seconds = row["/ import lightning.pytorch"]["median"], row["seconds"]["median"]
            found.append((f"`{row['command']}`, beside `import lightning.pytorch`", f"{ratio:.2f}", f"{seconds:.2f}"))
    for row in read("inference")["rows"]:
        ratio, speed = row["predict / bare seconds"]["median"], row["predict images/s"]["median"]
        what = f"{row['model']}: 10,000 images through `Trainer.predict`, beside the bare network"
        found.append((what, f"{ratio:.2f}", f"{10_000 / speed:.2f}"))
    for row in read("growth")["rows"]:
        if row["images"] == 6_000_000:
            count = {1: "one process", 2: "two processes"}[row["processes"]]
            what = f"MLP: images a second out of six million, beside sixty thousand, {count}"
            found.append((what, f"{row['/ smallest']['median']:.2f}", ""))
    return found


def speed_table() -> str:
    """Returns the table of speed as Markdown."""
    return as_markdown(["what", "ratio", "seconds"], speeds())


def accuracy_table() -> str:
    """Returns the table of accuracy as Markdown."""
    found = [row for name in RECIPES if (row := accuracy.summarise(accuracy.RESULTS_DIR, name, "test"))]
    columns = list(found[0])
    return as_markdown(columns, ([row.get(column, "") for column in columns] for row in found))


def robustness_table() -> str:
    """Returns the errors of the shipped weights on corrupted images as Markdown."""
    found = read("robustness")["rows"]
    names = [row["corruption"].replace("_", " ") for row in found]
    return as_markdown(names, [[f"{row['error %']:.1f}" for row in found]])


def pictures_table() -> str:
    """Returns the accuracy of the shipped weights on photographs as Markdown; of lines, whole strings and digits."""
    found = [row for row in read("pictures")["rows"] if "pictures/s" not in row]
    shares = [
        ", ".join(f"{row[key]:.1f}" for key in ("accuracy %", "strings right %", "digits right %") if key in row)
        for row in found
    ]
    return as_markdown([row["pictures"] for row in found], [shares])


def search_table() -> str:
    """Returns what `tune` finds beside random search as Markdown: medians of the repetitions, and their extremes."""
    columns = {"best validation accuracy %": ".2f", "seconds": ".0f", "epochs spared %": ".0f"}
    rows = read("search")["rows"]
    budget = f"{rows[0]['trials']} trials of `{rows[0]['recipe']}`, {rows[0]['epochs']} epochs each"
    lines = []
    for row in rows:
        found = [[format(row[name][key], form) for key in ("median", "min", "max")] for name, form in columns.items()]
        lines.append([row["side"], *(f"{median} ({least} to {most})" for median, least, most in found)])
    return as_markdown([budget, *columns], lines)


def finalists_table() -> str:
    """Returns the best finalist of each search beside its recipe as Markdown: validation accuracy of the same seeds."""
    lines = []
    for path in sorted((RESULTS_DIR / "tuned").glob("*/finalists.csv")):
        scores: dict[str, dict[str, float]] = {}
        with path.open(newline="") as stream:
            for row in csv.DictReader(stream):
                scores.setdefault(row["trial"], {})[row["seed"]] = 100 * float(row["validation accuracy"])
        recipe = scores.pop("recipe")
        best = max(scores.values(), key=lambda seeds: statistics.mean(seeds.values()))
        difference = statistics.mean(best[seed] - recipe[seed] for seed in recipe)
        means = [f"{statistics.mean(seeds.values()):.2f}" for seeds in (recipe, best)]
        lines.append([path.parent.name, *means, f"{difference:+.2f}", str(len(recipe))])
    return as_markdown(["search", "recipe %", "best finalist %", "difference", "seeds"], lines)


def tuned_table() -> str:
    """Returns what `best.yaml` does with seeds that had no part in choosing it, beside its recipe, as Markdown."""
    folder, lines = RESULTS_DIR / "tuned", []
    for path in sorted(folder.glob("*_tuned-5.json")):
        tuned = path.stem.removesuffix("-5")
        name = tuned.removesuffix("_tuned")
        found = accuracy.summarise(folder, name, "val"), accuracy.summarise(folder, tuned, "val")
        difference = accuracy.compare(folder, tuned, name)
        lines.append(
            [name, *(row["val accuracy"] for row in found if row), difference["val accuracy"], difference["seeds"]]
        )
    return as_markdown(["search", "recipe", "`best.yaml`", "difference, points", "seeds"], lines)


def kills_table() -> str:
    """Returns what became of killed runs as Markdown."""
    columns = ("variant", "kills", "exactly", "not exactly", "unloadable")
    return as_markdown(columns, ([str(row[column]) for column in columns] for row in read("kills")["rows"]))


TABLES = (robustness_table, pictures_table, speed_table, search_table, finalists_table, tuned_table, kills_table)
"""Of `docs/measurements.md`; the README has the one of accuracy."""


if __name__ == "__main__":
    print(accuracy_table(), *(table() for table in TABLES), sep="\n\n")
