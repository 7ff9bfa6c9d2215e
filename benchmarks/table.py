"""The README's tables, made from the JSON files in `results/`: `python -m benchmarks.table` prints them."""

import json
from typing import Any

from benchmarks import accuracy
from benchmarks.measure import RESULTS_DIR

RECIPES = ("cnn", "cnn_best", "cnn_best_ensemble", "cnn_fast", "mlp", "mlp_augmented")


def read(name: str) -> dict[str, Any]:
    """Returns what a benchmark wrote."""
    result: dict[str, Any] = json.loads((RESULTS_DIR / f"{name}.json").read_text())
    return result


def rows() -> list[tuple[str, str, str]]:
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
    lines = ["| what | ratio | seconds |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows())]
    return "\n".join(lines)


def accuracy_table() -> str:
    """Returns the table of accuracy as Markdown."""
    found = [row for name in RECIPES if (row := accuracy.summarise(accuracy.RESULTS_DIR, name, "test"))]
    columns = list(found[0]) if found else []
    lines = [columns, ["---"] * len(columns), *([row.get(column, "") for column in columns] for row in found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def robustness_table() -> str:
    """Returns the errors of the shipped weights on corrupted images as Markdown."""
    found = read("robustness")["rows"]
    names, errors = ([row[key] for row in found] for key in ("corruption", "error %"))
    lines = [names, ["---"] * len(names), [f"{error:.1f}" for error in errors]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("_", " ")


def pictures_table() -> str:
    """Returns the accuracy of the shipped weights on photographs as Markdown; of lines, whole strings and digits."""
    found = [row for row in read("pictures")["rows"] if "pictures/s" not in row]
    names = [row["pictures"] for row in found]
    shares = [
        ", ".join(f"{row[key]:.1f}" for key in ("accuracy %", "strings right %", "digits right %") if key in row)
        for row in found
    ]
    lines = [names, ["---"] * len(names), shares]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def search_table() -> str:
    """Returns what `tune` finds beside random search as Markdown: medians of the repetitions, and their extremes."""
    columns = {"best validation accuracy %": ".2f", "seconds": ".0f", "epochs spared %": ".0f"}
    lines = [["30 trials of `mlp`", *columns], ["---"] * (1 + len(columns))]
    for row in read("search")["rows"]:
        found = [[format(row[name][key], form) for key in ("median", "min", "max")] for name, form in columns.items()]
        lines.append([row["side"], *(f"{median} ({least} to {most})" for median, least, most in found)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(accuracy_table(), robustness_table(), pictures_table(), search_table(), speed_table(), sep="\n\n")
