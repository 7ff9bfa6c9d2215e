"""`predict` on the user's own images."""

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from mnist_lightning.__main__ import main
from mnist_lightning.data import sources
from tests.conftest import UInt8, line_of, put_image, read_csv, scan


def test_images_are_predicted_and_unreadable_ones_are_skipped(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in range(3):
        put_image(Path(f"scans/{label}.png"), label)
    main(["predict", "--images", "scans", "--output", "good.csv"])
    rows = read_csv(Path("good.csv"))
    assert [row["source"] for row in rows] == [f"scans/{label}.png" for label in range(3)]
    assert list(rows[0]) == ["source", "prediction", "confidence", *(f"p{i}" for i in range(10)), "known", "reason"]
    with Image.open("good_sheet.png") as sheet:
        assert sheet.size[0] > 300
    Path("scans/3.png").write_text("not an image")
    capsys.readouterr()
    with pytest.raises(SystemExit) as error:
        main(["predict", "--images", "scans/*.png", "--min_confidence", "1", "--digits", "many"])
    assert error.value.code == 3
    output = capsys.readouterr()
    assert "unreadable: scans/3.png is not in a supported format; use PNG" in output.err
    assert "unreadable  1 of 4 images" in output.out
    assert f"sheet       {run / 'predictions_sheet.png'}, with what the model saw" in output.out
    rows = read_csv(run / "predictions.csv")
    assert list(rows[0])[-6:] == ["left", "top", "width", "height", "known", "reason"]
    assert all(row["prediction"] == "" or float(row["confidence"]) == 1 for row in rows)
    assert (run / "predictions_sheet.png").is_file()


@pytest.mark.slow
def test_uncertain_predictions_are_left_empty_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    main(["predict", "--ckpt_path", "pretrained", "--min_confidence", "0.99", "--output", "p.csv"])
    rows = read_csv(Path("p.csv"))
    num_empty = sum(row["prediction"] == "" for row in rows)
    assert num_empty == sum(float(row["confidence"]) < 0.99 for row in rows) > 0
    expected = f"uncertain   {num_empty} of 10,000 predictions have a confidence below 0.99"
    assert expected in capsys.readouterr().out


def test_picture_without_a_digit_is_left_empty(mnist_images: UInt8, capsys: pytest.CaptureFixture[str]) -> None:
    Path("scans").mkdir()
    Image.fromarray(scan(mnist_images[0])).save("scans/0.png")
    star = Image.new("L", (280, 280), "white")
    for end in ((60, 60), (60, 220), (140, 30), (140, 250), (220, 60), (220, 220), (30, 140), (250, 140)):
        ImageDraw.Draw(star).line((140, 140, *end), "black", 16)
    star.save("scans/1.png")
    flags = ["--ckpt_path", "pretrained", "--output", "p.csv"]
    main(["predict", "--images", "scans", *flags])
    assert "uncertain   1 of 2 predictions are left empty, as the picture shows no digit" in capsys.readouterr().out
    digit, other = read_csv(Path("p.csv"))
    assert (digit["prediction"], digit["reason"]) == ("7", "")
    assert (other["prediction"], other["reason"]) == ("", "no digit")
    for row in (digit, other):
        least = min(float(row[f"p{index}"]) for index in range(10))
        assert float(row["known"]) == pytest.approx(1 - 10 * least, abs=1e-5)
    main(["predict", "--images", "scans", *flags, "--min_confidence", "1"])
    assert [row["reason"] for row in read_csv(Path("p.csv"))] == ["unsure", "no digit"]


def test_lines_of_digits_are_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_image(Path("7.png"), 7)
    main(["predict", "--images", "7.png", "--digits", "many"])
    prediction = "".join(row["prediction"] for row in read_csv(run / "predictions.csv"))
    assert f"7.png: {prediction}\n" in capsys.readouterr().out
    flags = ["--ckpt_path", "pretrained", "--output", "7.csv", "--min_confidence", "1"]
    main(["predict", "--images", "7.png", "--digits", "many", *flags])
    assert "7.png: ?\n" in capsys.readouterr().out


def test_nothing_is_written_when_no_image_can_be_read(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.png").write_text("not an image")
    with pytest.raises(SystemExit) as error:
        main(["predict", "--images", "text.png"])
    assert error.value.code == 3
    assert "unreadable  1 of 1 images; nothing was written" in capsys.readouterr().out
    assert not (run / "predictions.csv").exists()


def test_predict_does_not_overwrite_an_input_image(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_image(Path("scans/1_sheet.png"), 1)
    before = Path("scans/1_sheet.png").read_bytes()
    line = line_of(["predict", "--images", "scans", "--output", "scans/1.csv"], capsys)
    assert line == "error: scans/1_sheet.png is one of the --images and would be overwritten; choose another --output\n"
    assert [path.name for path in Path("scans").iterdir()] == ["1_sheet.png"]
    assert Path("scans/1_sheet.png").read_bytes() == before


def test_wrong_flags_are_rejected(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert line_of(["predict", "--images", "no.png"], capsys) == (
        "error: --images no.png matches no file; use files, folders or a quoted pattern\n"
    )
    put_image(Path("scans/1.png"), 1)
    flags = ["predict", "--images", "scans", "--min_confidence", "2"]
    assert line_of(flags, capsys) == "error: --min_confidence 2.0 is not allowed; it must be between 0 and 1\n"
    ddp = ["--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    line = line_of(["predict", "--images", "scans", *ddp], capsys)
    assert line == "error: 1 digits are too few for 2 processes; lower --trainer.devices\n"


def test_output_flag_sets_the_csv_path(run: Path) -> None:
    main(["predict", "--output", "mine/p.csv", "--ckpt_path", str(run / "checkpoints" / "last.ckpt")])
    assert len(read_csv(Path("mine/p.csv"))) == 100
    assert not (run / "predictions.csv").exists()


def test_predictions_go_to_standard_output_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["predict", "--output", "written.csv"])
    capsys.readouterr()
    main(["predict", "--output", "-"])
    printed = capsys.readouterr()
    assert printed.out == Path("written.csv").read_text()
    assert "predictions -" in printed.err
    put_image(Path("scans/3.png"), 3)
    main(["predict", "--images", "scans", "--output", "-"])
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert not list(Path().glob("*sheet*"))


def test_predictions_are_written_as_lines_of_json(run: Path) -> None:
    main(["predict", "--output", "p.csv"])
    main(["predict", "--output", "p.json"])
    rows = [json.loads(line) for line in Path("p.json").read_text().splitlines()]
    assert [{name: f"{v:.6f}" if isinstance(v, float) else v for name, v in row.items()} for row in rows] == read_csv(
        Path("p.csv")
    )


def test_lines_need_a_model_of_handwriting(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_image(Path("scans/3.png"), 3)
    monkeypatch.setitem(sources.SOURCES, "Tiny", dataclasses.replace(sources.SOURCES["Tiny"], is_handwriting=False))
    expected = "error: --digits many needs --images and a model of handwriting; this one learned Tiny\n"
    assert line_of(["predict", "--images", "scans", "--digits", "many"], capsys) == expected
