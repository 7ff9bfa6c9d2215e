"""Downloads: each mirror in turn, until one has the file with the published checksum."""

import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mnist_lightning.data.sources import File, Source
from mnist_lightning.errors import UserError, one_line

TIMEOUT_S = 30  # seconds without a byte after which a mirror is abandoned


def download(source: Source, files: Sequence[File], raw_dir: Path) -> None:
    """Downloads compressed files from torchvision's mirrors; raises a UserError if no mirror has one of them."""
    from torchvision import datasets  # takes seconds to import, and most runs download nothing

    problem = f"no valid copy of {', '.join(file.name for file in files)} in {raw_dir}"
    has_checksums = all(file.decompressed or not file.compressed for file in files)
    advice = f"put the files there, {'compressed or not' if has_checksums else 'compressed'}"
    dataset_class = getattr(datasets, source.torchvision_class, None)
    if dataset_class is None:
        raise UserError(f"{problem}; {advice}")
    try:
        for urls, name, checksum in _urls(dataset_class, files):
            fetch(urls, raw_dir / name, checksum)
    except OSError as error:
        advice += ", or name another folder with --data.data_dir"
        raise UserError(f"{problem}, and the download failed ({one_line(error)}); {advice}") from error


def fetch(urls: Sequence[str], path: Path, checksum: str) -> None:
    """Downloads a file from the first URL that has it, or raises an OSError with the reason for each."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT_S)
    problems = []
    for url in urls:
        try:
            pooch.retrieve(url, checksum, path.name, path.parent, downloader=downloader)
            return
        except OSError as error:  # requests' errors are OSErrors, and some are also ValueErrors
            problems.append(f"{url}: {error}")
        except ValueError:
            problems.append(f"{url}: checksum mismatch")
    raise OSError("; ".join(problems))


def _urls(dataset_class: Any, files: Sequence[File]) -> Iterator[tuple[list[str], str, str]]:
    """Yields URLs, name and checksum of each download; each family of torchvision's classes keeps them differently."""
    if hasattr(dataset_class, "url"):  # one archive holds all files
        yield [dataset_class.url], Path(dataset_class.url).name, f"md5:{dataset_class.md5}"
        return
    for file in files:
        name = f"{file.name}.gz"
        if isinstance(dataset_class.resources, dict):
            pairs = itertools.chain(*dataset_class.resources.values())
            yield [url for url, _ in pairs if url.endswith(f"/{name}")], name, file.compressed
        else:
            yield [f"{mirror.rstrip('/')}/{name}" for mirror in dataset_class.mirrors], name, file.compressed
