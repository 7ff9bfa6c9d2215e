"""The page on pictures of your own works from its first command to its last."""

import http.client
import json
import re
import shlex
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from benchmarks.serving import serve
from mnist_lightning.__main__ import main
from mnist_lightning.data import sources
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.images import InputFormat
from mnist_lightning.serving.app import create_app
from mnist_lightning.serving.runtime import ExportedClassifier
from tests.conftest import MLP, SMALL, UInt8, digits, png, put_pictures, read_csv

PAGE = (Path(__file__).parent.parent.parent / "docs" / "own_pictures.md").read_text()
CALLS = re.findall(r"^python -m mnist_lightning (.*)$", PAGE, flags=re.MULTILINE)


def answer(port: int, path: Path) -> dict[str, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", "/predict", path.read_bytes(), {"Content-Type": "application/octet-stream"})
        content = json.loads(connection.getresponse().read())
        return dict(content["predictions"][0])


@pytest.mark.slow
def test_page_leads_from_class_folders_to_a_service(capsys: pytest.CaptureFixture[str]) -> None:
    put_pictures(Path("pictures"), 30)
    put_pictures(Path("new_pictures"), 2, seed=1)
    fit, *middle, last = map(shlex.split, CALLS)
    assert [call[0] for call in (fit, *middle, last)] == ["fit", "validate", "test", "predict", "export", "serve"]
    main([*fit, "--data.batch_size", "16", "--trainer.accelerator", "cpu"])
    for call in middle:
        main(call)
    assert "accuracy 100.00%" in capsys.readouterr().out
    rows = [json.loads(line) for line in Path("answers.json").read_text().splitlines()]
    assert all(Path(row["source"]).parent.name == row["prediction"] for row in rows)
    assert len(rows) == 6
    assert {row["known"] for row in rows} == {1}  # only a model of handwriting can tell what shows no digit
    with serve(*last[1:-2]) as service:  # on a free port
        for row in rows:
            served = answer(service.port, Path(row["source"]))
            assert served["known"] == 1
            assert list(served["probabilities"].values()) == pytest.approx([row[f"p{i}"] for i in range(3)], abs=2e-6)


def as_emnist(image: UInt8) -> UInt8:
    """Returns a digit as EMNIST has it: 24 pixels large, and centered by its box (Cohen et al. 2017)."""
    rows, columns = (np.flatnonzero(image.max(axis)) for axis in (1, 0))
    digit = Image.fromarray(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    square = ImageOps.pad(digit, (24, 24), Image.Resampling.BICUBIC)
    return np.pad(np.asarray(square), 2)


@pytest.mark.parametrize("dataset", ["MNIST", "QMNIST", "EMNISTDigits", "EMNISTBalanced"])
def test_digits_of_a_dataset_are_read_unchanged(dataset: str, mnist_images: UInt8) -> None:
    data = MNISTDataModule(dataset)
    inputs = InputFormat(data.image_size, data.channels, data.is_handwriting)
    assert inputs == InputFormat()
    for image in map(as_emnist, mnist_images) if dataset.startswith("EMNIST") else mnist_images:
        (digit,) = inputs.read(png(image))
        assert (digit.image == image).all()


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["FashionMNIST", "KMNIST"])
def test_same_pixels_get_the_same_answer_in_every_command(
    dataset: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_handwriting = sources.SOURCES[dataset].is_handwriting
    monkeypatch.setitem(sources.SOURCES, "Tiny", replace(sources.SOURCES["Tiny"], is_handwriting=is_handwriting))
    main(["fit", *SMALL, *MLP, "--trainer.max_epochs", "1"])
    Path("pictures").mkdir()
    for number, image in enumerate(digits(100)[0]):
        Path(f"pictures/{number:03}.png").write_bytes(png(image))
    main(["predict", "--output", "tested.csv"])
    main(["predict", "--images", "pictures", "--output", "read.csv"])
    main(["export"])
    client = create_app(ExportedClassifier(Path("model.onnx"))).test_client()
    for tested, read in zip(read_csv(Path("tested.csv")), read_csv(Path("read.csv")), strict=True):
        for name in ("prediction", *(f"p{i}" for i in range(10))):
            assert tested[name] == read[name]
        content = Path(read["source"]).read_bytes()
        (served,) = client.post("/predict", data=content, content_type="image/png").get_json()["predictions"]
        assert served["prediction"] == tested["prediction"]
        assert served["confidence"] == pytest.approx(float(tested["confidence"]), abs=2e-6)
