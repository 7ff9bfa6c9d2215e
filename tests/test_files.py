"""Writes are atomic."""

import os
import threading
from pathlib import Path

import pytest

from mnist_lightning.errors import UserError
from mnist_lightning.files import read_yaml, write_atomically


def test_text_and_bytes_are_written_to_a_new_folder(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new" / "a.txt", "grüße\n")
    write_atomically(tmp_path / "new" / "b.bin", b"\0\1")
    assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == "grüße\n"
    assert (tmp_path / "new" / "b.bin").read_bytes() == b"\0\1"
    (tmp_path / "usual").touch()
    assert (tmp_path / "new" / "a.txt").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_failed_write_keeps_the_previous_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "previous")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(UserError) as error:
        write_atomically(path, "next")
    assert str(error.value) == f"{path} can't be written (No space left on device); free some space"
    assert path.read_text() == "previous"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_flushed_before_it_replaces_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flushed = tmp_path / "a.txt", []
    write_atomically(path, "previous")
    fsync = os.fsync

    def record(descriptor: int) -> None:
        flushed.append((Path(f"/proc/self/fd/{descriptor}").resolve() == tmp_path, path.read_text()))
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", record)
    write_atomically(path, "next")
    assert flushed == [(False, "previous"), (True, "next")]  # the file, then the folder


def test_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "text"


def test_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = threading.Thread(target=lambda: (tmp_path / "read").write_bytes((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_atomically(tmp_path / "pipe", "text")
    reader.join(10)
    assert (tmp_path / "read").read_text() == "text"
    assert (tmp_path / "pipe").is_fifo()


def test_folder_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        write_atomically(tmp_path, "text")
    assert str(error.value) == f"{tmp_path} can't be written (Is a directory); choose another location"


def test_yaml_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: CNN\nwidths: [1, 2]\n")
    assert read_yaml(tmp_path / "a.yaml") == {"model": "CNN", "widths": [1, 2]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"\xff", "it is not valid YAML ("),
        (b"a: [1,\n", "it is not valid YAML ("),
    ],
)
def test_unreadable_yaml_is_reported(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert str(error.value).startswith(f"{path} can't be read: {reason}")
    assert "\n" not in str(error.value)
