"""Files that are whole or not there."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes | memoryview | str) -> None:
    """Writes a file beside its target and moves it into place, so that no reader ever sees half of it.

    Args:
        path: The target; its folder is made if need be. A link is followed, a device or pipe is written to.
        content: Bytes, or text that is encoded as UTF-8.

    Raises:
        OSError: The folder can't be written; an earlier file is left as it was.
    """
    path = path.resolve()
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        path.write_bytes(data)  # a folder raises
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
        temporary = Path(stream.name)
        try:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            temporary.chmod(0o644)  # as open() leaves files; temporary ones are for their owner alone
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)  # or a power cut could take the new name away again
    os.close(folder)
