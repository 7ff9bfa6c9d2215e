"""Downloads: each mirror in turn, until one has the file with the published checksum."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mnist_lightning.data.sources import File, Source
from mnist_lightning.errors import UserError, one_line

REPEATED = r"^.*HTTPS?Connection\w*\(.*?port=\d+\): |[\"']\)\)$"  # what surrounds the reason in urllib3's errors
TIMEOUT_S = 30  # seconds without a byte after which a mirror is abandoned


def download(source: Source, files: Sequence[File], raw_dir: Path) -> None:
    """Downloads compressed files; raises a UserError if no mirror has a valid copy of one of them."""
    problem = f"no valid copy of {', '.join(file.name for file in files)} in {raw_dir}"
    has_checksums = all(file.decompressed or not file.compressed for file in files)
    advice = f"put the files there, {'compressed or not' if has_checksums else 'compressed'}"
    if not source.mirrors:
        raise UserError(f"{problem}; {advice}")
    wanted = [(f"{file.name}.gz", file.compressed) for file in files]
    try:
        for name, checksum in [source.archive] if source.archive else wanted:
            fetch([mirror + name for mirror in source.mirrors], raw_dir / name, checksum)
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
            problems.append(f"{url}: {re.sub(REPEATED, '', str(error))}")
        except ValueError:
            problems.append(f"{url}: checksum mismatch")
    raise OSError("; ".join(problems))
