"""Prints the published tables, made from the files in `results/`: `python -m benchmarks.table`."""

import csv
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks import accuracy
from benchmarks.measure import RESULTS_DIR

CONFIGS = ("cnn", "cnn_best", "cnn_best_ensemble", "cnn_robust", "mlp", "mlp_augmented")
WEIGHTS = {"cnn_robust": "", "cnn_best": "_cnn_best"}
"""The config of the pretrained weights and of others, and what the names of their results end with."""


def read(name: str) -> dict[str, Any]:
    """Returns the results that a benchmark wrote."""
    result: dict[str, Any] = json.loads((RESULTS_DIR / f"{name}.json").read_text())
    return result


def as_markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table as Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *rows))


def speeds() -> list[tuple[str, str, str]]:
    """Returns rows of a description, a ratio and seconds."""
    found = []
    for row in read("epoch_time")["rows"]:
        if row["batch size"] != 128:
            continue  # in the file only
        what = f"{row['model']}, one epoch with batch size {row['batch size']}, compared with a plain PyTorch loop"
        found.append((what, f"{row['package / plain']['median']:.2f}", f"{row['package s']['median']:.1f}"))
        what = "the same in standard Lightning code (`DataLoader`, transforms, `self.log`), compared with this package"
        found.append((what, f"{row['standard / package']['median']:.1f}", f"{row['standard s']['median']:.1f}"))
        if "process s" in row:
            what = "MLP, each further epoch of the whole `fit` process, compared with that loop"
            found.append((what, f"{row['process / plain']['median']:.2f}", f"{row['process s']['median']:.1f}"))
    fast = read("time_to_99")["rows"][-1]
    seconds = fast["whole process s"]["median"] - fast["training s"]["median"]
    ratio = f"{fast['outside training / import']['median']:.2f}"
    what = f"`cnn_fast.yaml`, training to {fast['test accuracy %']}% test accuracy (ten seeds)"
    found.append((what, "", f"{fast['training s']['median']:.1f}"))
    found.append(("rest of that process, compared with `import lightning.pytorch`", ratio, f"{seconds:.1f}"))
    for row in read("startup")["rows"]:
        if row["command"] in ("--help", "test", "predict, one image"):
            ratio, seconds = row["/ import lightning.pytorch"]["median"], row["seconds"]["median"]
            name, _, addition = row["command"].partition(",")
            what = f"`{name}`{',' * bool(addition)}{addition}, compared with `import lightning.pytorch`"
            found.append((what, f"{ratio:.2f}", f"{seconds:.2f}"))
    for row in read("inference")["rows"]:
        ratio, speed = row["predict / bare seconds"]["median"], row["predict images/s"]["median"]
        what = f"{row['model']}, `Trainer.predict` on 10,000 images, compared with the bare network"
        found.append((what, f"{ratio:.2f}", f"{10_000 / speed:.2f}"))
    *_, files = read("images")["rows"]
    found.append((f"`predict --images` with {files['kind']}", "", f"{files['seconds']:.0f}"))
    for row in read("growth")["rows"]:
        if row["images"] == 6_000_000:
            count = {1: "one process", 2: "two processes"}[row["processes"]]
            what = f"MLP, images per second with 6,000,000 images, compared with 60,000, {count}"
            found.append((what, f"{row['/ smallest']['median']:.2f}", ""))
    return found


def speed_table() -> str:
    """Returns the table of speed as Markdown."""
    return as_markdown(["measurement", "ratio", "seconds"], speeds())


def accuracy_table(*columns: str) -> str:
    """Returns the table of accuracy as Markdown, by default with all columns."""
    found = [row for name in CONFIGS if (row := accuracy.summarize(accuracy.RESULTS_DIR, name, "test"))]
    columns = columns or tuple(found[0])
    return as_markdown(columns, ([row.get(column, "") for column in columns] for row in found))


def summary_table() -> str:
    """Returns the README's table of accuracy as Markdown."""
    return accuracy_table("config", "test accuracy", "parameters", "seconds")


def record_table() -> str:
    """Returns attempts at a higher accuracy as Markdown."""
    ends = ("", "_shifted", "_ensemble", "_zen4", "_zen4_shifted", "_zen4_ensemble", "_no_light")
    found = [row for end in ends if (row := accuracy.summarize(RESULTS_DIR / "record", f"cnn_wide{end}", "test"))]
    columns = ("config", "test accuracy", "each seed", "loss", "ECE", "error without suspected label errors")
    return as_markdown(columns, ([row[column] for column in columns] for row in found))


def robustness_table() -> str:
    """Returns errors on corrupted images as Markdown."""
    found = {config: read(f"robustness{end}")["rows"] for config, end in WEIGHTS.items()}
    names = [row["corruption"].replace("_", " ") for row in found["cnn_robust"]]
    lines = ([config, *(f"{row['error %']:.1f}" for row in rows)] for config, rows in found.items())
    return as_markdown(["config", *names], lines)


def outliers_table() -> str:
    """Returns what is said about pictures that show no digit, and about other people's digits, as Markdown."""
    columns = ("right %", "confidence of 0.9 or more %", "accepted %")
    lines = [
        [row["pictures"], config, *(f"{row[column]:.1f}" if column in row else "" for column in columns)]
        for rows in zip(*(read(f"outliers{end}")["rows"] for end in WEIGHTS.values()), strict=True)
        for config, row in zip(WEIGHTS, rows, strict=True)
    ]
    return as_markdown(["pictures", "config", *columns], lines)


def seeds_table() -> str:
    """Returns how the runs of `cnn_robust` differ as Markdown; seed 1 is the pretrained one."""
    columns = ["seed", "test accuracy %", "ECE %", "UCI's digits right %", "shapes with 0.9 or more %", "accepted %"]
    lines: list[list[Any]] = []
    for seed in range(3):
        run = json.loads((RESULTS_DIR / f"accuracy/cnn_robust-{seed}.json").read_text())
        outliers, robustness = (
            read(name if seed == 1 else f"seeds/{name}-{seed}")["rows"] for name in ("outliers", "robustness")
        )
        _, uci, *others = outliers
        shares = [row[name] for row in others for name in ("confidence of 0.9 or more %", "accepted %")]
        errors = [row["error %"] for row in robustness[-2:]]  # with edges, and the mean
        values = [100 * run["test accuracy"], 100 * run["ECE"], uci["right %"], *shares, *errors]
        lines.append([seed, *values])
    lines.append(["mean", *(statistics.mean(values) for values in zip(*(line[1:] for line in lines), strict=True))])
    columns += ["letters with 0.9 or more %", "accepted %", "edges wrong %", "16 corruptions wrong %"]
    cells = [
        [str(name), f"{accuracy:.2f}", f"{ece:.2f}", *(f"{v:.1f}" for v in rest)]
        for name, accuracy, ece, *rest in lines
    ]
    return as_markdown(columns, cells)


def ablations_table() -> str:
    """Returns what the ingredients of `cnn_robust` give as Markdown."""
    names = {
        "right": "right",
        "right of 8x8 pixels": "right, 8x8 pixels",
        "shapes with a confidence of 0.9 or more": "shapes with 0.9 or more",
        "shapes accepted": "accepted",
        "symbols with a confidence of 0.9 or more": "symbols with 0.9 or more",
        "symbols accepted": "accepted",
        "wrong with edges only": "edges wrong",
        "wrong, mean of 16 corruptions": "16 corruptions wrong",
    }
    rows = read("ablations")["rows"]
    return as_markdown(["variant", *names.values()], ([row["variant"], *(row[name] for name in names)] for row in rows))


def images_table() -> str:
    """Returns the accuracy of the pretrained weights on photos as Markdown; for lines, of whole lines and of digits."""
    found = [row for row in read("images")["rows"] if "images/s" not in row]
    keys = ("accuracy %", "strings correct %", "digits correct %")
    accuracies = [", ".join(f"{row[key]:.1f}" for key in keys if key in row) for row in found]
    return as_markdown([row["kind"] for row in found], [accuracies])


def strings_table() -> str:
    """Returns how numbers whose digits touch and whole pages are read, as Markdown."""
    lines = []
    for row in read("strings")["rows"]:
        if "digits" in row:
            lines.append((row["kind"], f"{row['right']} of {row['digits']} digits", "", ""))
        else:
            lines.append(
                (row["kind"], *(f"{row[key]:.1f}" for key in ("right %", "right and sure %", "wrong and sure %")))
            )
    return as_markdown(("kind", "right", "right, and all with 0.9 or more", "wrong, but all with 0.9 or more"), lines)


def transfer_table() -> str:
    """Returns FashionMNIST from scratch and from the pretrained weights as Markdown."""
    columns = ("images", "start", "learning rate", "validation accuracy %", "test accuracy %")
    return as_markdown(columns, ([str(row[column]) for column in columns] for row in read("transfer")["rows"]))


def search_table() -> str:
    """Returns `tune` compared with random search as Markdown: medians and ranges of the repeats."""
    columns = {"best validation accuracy %": ".2f", "seconds": ".0f", "epochs saved %": ".0f"}
    rows = read("search")["rows"]
    budget = f"{rows[0]['trials']} trials of `{rows[0]['config']}`, {rows[0]['epochs']} epochs each"
    lines = []
    for row in rows:
        found = [[format(row[name][key], form) for key in ("median", "min", "max")] for name, form in columns.items()]
        lines.append([row["method"], *(f"{median} ({least} to {most})" for median, least, most in found)])
    return as_markdown([budget, *columns], lines)


def finalists_table() -> str:
    """Returns the best finalist of each search and its config as Markdown: validation accuracy with the same seeds."""
    lines = []
    for path in sorted((RESULTS_DIR / "tuned").glob("*/finalists.csv")):
        scores: dict[str, dict[str, float]] = {}
        with path.open(newline="") as stream:
            for row in csv.DictReader(stream):
                scores.setdefault(row["trial"], {})[row["seed"]] = 100 * float(row["validation accuracy"])
        config = scores.pop("config")
        best = max(scores.values(), key=lambda seeds: statistics.mean(seeds.values()))
        difference = statistics.mean(best[seed] - config[seed] for seed in config)
        means = [f"{statistics.mean(seeds.values()):.2f}" for seeds in (config, best)]
        lines.append([path.parent.name, *means, f"{difference:+.2f}", str(len(config))])
    return as_markdown(["search", "config %", "best finalist %", "difference", "seeds"], lines)


def tuned_table() -> str:
    """Returns `best.yaml` and its config, with seeds that did not choose `best.yaml`, as Markdown."""
    folder, lines = RESULTS_DIR / "tuned", []
    for path in sorted(folder.glob("*_tuned-5.json")):
        tuned = path.stem.removesuffix("-5")
        name = tuned.removesuffix("_tuned")
        found = accuracy.summarize(folder, name, "val"), accuracy.summarize(folder, tuned, "val")
        difference = accuracy.compare(folder, tuned, name)
        lines.append(
            [name, *(row["val accuracy"] for row in found if row), difference["val accuracy"], difference["seeds"]]
        )
    return as_markdown(["search", "config", "`best.yaml`", "difference, percentage points", "seeds"], lines)


def bfloat16_table() -> str:
    """Returns training in bfloat16, compared with full precision, as Markdown: five seeds each."""
    folder, lines = RESULTS_DIR / "bfloat16", []
    for name in ("cnn", "mlp"):
        difference = accuracy.compare(folder, f"{name}_bf16", name)
        for precision, runs in (("32-true", name), ("bf16-mixed", f"{name}_bf16")):
            found = [json.loads((folder / f"{runs}-{seed}.json").read_text()) for seed in range(5)]
            seconds = statistics.median(run["training s, machine shared"] for run in found)
            scores = [accuracy.describe([run["val accuracy"] for run in found])]
            scores.append(difference["val accuracy"] if runs != name else "")
            scores.append(f"{statistics.mean(run['val loss'] for run in found):.4f}")
            lines.append([name, precision, *scores, f"{seconds:.0f}"])
    columns = ["config", "precision", "validation accuracy", "difference, percentage points", "loss", "seconds"]
    return as_markdown(columns, lines)


def kills_table() -> str:
    """Returns how killed runs ended as Markdown."""
    columns = ("variant", "kills", "identical", "different", "not resumable")
    return as_markdown(columns, ([str(row[column]) for column in columns] for row in read("kills")["rows"]))


def page_table() -> str:
    """Returns how soon the page knows an answer as Markdown."""
    lines = ([row["page"], f"{row['p50 ms']:.0f}", f"{row['p99 ms']:.0f}"] for row in read("page")["rows"])
    return as_markdown(["page", "median, ms", "99th percentile, ms"], lines)


TABLES: dict[str, tuple[Callable[[], str], ...]] = {
    "README.md": (summary_table,),
    "docs/measurements.md": (
        accuracy_table,
        record_table,
        robustness_table,
        outliers_table,
        seeds_table,
        ablations_table,
        images_table,
        strings_table,
        transfer_table,
        speed_table,
        bfloat16_table,
        search_table,
        finalists_table,
        tuned_table,
    ),
    "docs/reliability.md": (kills_table,),
    "docs/serving.md": (page_table,),
    "MODEL_CARD.md": (robustness_table, outliers_table, images_table),
}
"""The tables on each page."""


if __name__ == "__main__":
    print(*(table() for tables in TABLES.values() for table in tables), sep="\n\n")
