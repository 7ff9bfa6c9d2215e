"""The storage of a search: a database that machines share, with heartbeats."""

import contextlib
import time
import warnings
from collections.abc import Iterator
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from mnist_lightning.errors import UserError, hide_passwords, one_line


class Storage(RDBStorage):
    """A database of trials. A trial without a heartbeat for the grace period counts as dead, and is retried once."""

    def record_heartbeat(self, trial_id: int) -> None:
        """Records that a trial is alive; if the database is gone, the trial itself will report it."""
        with contextlib.suppress(StorageInternalError):
            super().record_heartbeat(trial_id)


def open_storage(url: str, grace_s: int) -> Storage:
    """Opens a database at an SQLAlchemy URL, creating missing tables; raises a UserError without passwords."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the search itself reports each trial's outcome
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # heartbeats are experimental
    options: dict[str, Any] = {"heartbeat_interval": max(1, grace_s // 6), "grace_period": grace_s}
    options["heartbeat_stale_trial_callback"] = RetryHeartbeatStaleTrialCallback(max_retry=1)
    try:
        for _ in range(3):
            with contextlib.suppress(IntegrityError, ProgrammingError):  # another machine is creating the same tables
                return Storage(url, **options)
            time.sleep(1)
        return Storage(url, **options)
    except (SQLAlchemyError, ValueError, ImportError, RuntimeError) as error:
        reason = one_line(error.__cause__ or error)
        advice = "use a URL such as postgresql+psycopg://user@host/name"
        raise UserError(f"--storage {hide_passwords(url)} can't be used: {reason}; {advice}") from error


@contextlib.contextmanager
def lost_storage_reported() -> Iterator[None]:
    """Turns the errors of a lost database, or of a trial that was considered dead, into a UserError."""
    advice = "fix that, then continue with the same command"
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause and not isinstance(cause, SQLAlchemyError):  # Optuna wraps it in various errors
            cause = cause.__cause__ or cause.__context__
        if cause:
            raise UserError(f"the storage no longer answers ({one_line(cause)}); {advice}") from error
        if isinstance(error, ValueError) and not isinstance(error, UserError):  # a trial's own are caught earlier
            reason = "this machine sent no heartbeat for --grace_s seconds, so its trial was considered dead"
            raise UserError(f"{reason}; continue with the same command and a larger --grace_s") from error
        raise
