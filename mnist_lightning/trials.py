"""Trials that machines share: each is done once, whoever dies, sleeps or is interrupted."""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NoReturn

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from mnist_lightning.errors import hide_passwords, in_one_line

SURPLUS = "another machine began the last one at the same moment"
"""The error of a trial that is one too many."""
INTERRUPTED = "it was interrupted, and another one has its place"
"""The error of a trial that was stopped; what takes its place has the same values."""


class Storage(RDBStorage):
    """A database of trials, which show that they live, and are repeated once if they don't.

    Args:
        url: As SQLAlchemy takes it.
        grace_s: After so many seconds of silence a trial counts as dead.
    """

    def __init__(self, url: str, grace_s: int) -> None:
        super().__init__(
            url,
            heartbeat_interval=max(1, grace_s // 6),
            grace_period=grace_s,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=1),
        )

    def record_heartbeat(self, trial_id: int) -> None:
        """Records that a trial lives; if that can't be, whatever is asked next will tell, and in a line."""
        with contextlib.suppress(StorageInternalError):
            super().record_heartbeat(trial_id)

    def work_on(
        self,
        study: optuna.Study,
        count: int,
        objective: Callable[[optuna.Trial], float],
        end: float,
        say: Callable[[str], None],
    ) -> bool:
        """Runs trials until all machines together have done so many, and those that wait in the queue.

        Args:
            study: Where the trials are.
            count: How many.
            objective: Scores a trial; one that fails does not stop the others.
            end: When no more begins, by `time.monotonic`.
            say: Tells the user something.

        Returns:
            Whether there was time for that.
        """
        is_waiting, watched = False, set[int]()
        while time.monotonic() < end:
            trials = study.get_trials(deepcopy=False)
            states = {trial.state for trial in trials}
            if TrialState.WAITING in states or sum(map(_counts, trials)) < count:
                try:
                    study.optimize(partial(_unless_interrupted, objective), n_trials=1, catch=(Exception,))
                except ValueError as error:
                    if "Cannot tell a FAIL trial" not in str(error):
                        raise
                    say("this machine was silent for so long that its trial was given to another")
            elif TrialState.RUNNING in states:  # on another machine, which may die yet
                if not is_waiting:
                    is_waiting = True
                    say(f"waits for trials of other machines, which are dead after {self.grace_period} s of silence")
                time.sleep(1)
                optuna.storages.fail_stale_trials(study)
                for trial in trials:
                    if trial.state == TrialState.RUNNING and trial.number not in watched:
                        self.record_heartbeat(trial._trial_id)  # one that died before its first has none
                        watched.add(trial.number)
            else:
                return True
        return False


def open_storage(url: str, grace_s: int) -> Storage:
    """Opens a database, or makes it.

    Args:
        url: As SQLAlchemy takes it.
        grace_s: After so many seconds of silence a trial counts as dead.

    Raises:
        ValueError: The address is none, or nothing answers there. Passwords are left out.
    """
    try:
        make_url(url)
    except (SQLAlchemyError, ValueError) as error:
        raise ValueError("--storage is no address; give one such as postgresql+psycopg://user@host/name") from error
    storage = partial(Storage, url, grace_s)
    try:
        try:
            return storage()
        except (IntegrityError, ProgrammingError):  # another machine has made the same tables at the same moment
            time.sleep(3)
            return storage()
    except (SQLAlchemyError, ImportError, RuntimeError) as error:
        raise ValueError(
            f"--storage {hide_passwords(url)} can't be used: {_problem(error)}; mend it, or give another"
        ) from error


@contextlib.contextmanager
def told_when_lost() -> Iterator[None]:
    """Turns whatever Optuna makes of a database that answers no longer into one line.

    Raises:
        OSError: It does not.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause and not isinstance(cause, SQLAlchemyError):
            cause = cause.__cause__ or cause.__context__
        if not cause:
            raise
        problem = f"the storage can't be used any longer ({_problem(cause)})"
        raise OSError(f"{problem}; once that is mended, the same command goes on") from error


def _problem(error: BaseException) -> str:
    return in_one_line(error.__cause__ or error)


def refuse_surplus(trial: optuna.Trial, count: int) -> None:
    """Ends a trial that another machine began at the same moment, when so many have been begun without it.

    Raises:
        RuntimeError: They have.
    """
    *earlier, this = _until(trial)
    if _counts(this) and sum(map(_counts, earlier)) >= count:
        _end(trial)


def refuse_twin(trial: optuna.Trial) -> None:
    """Ends a trial out of the queue that another machine took, or queued, at the same moment.

    Raises:
        RuntimeError: An earlier one has the same parameters, or this one was not in the queue.
    """
    *earlier, this = _until(trial)
    queued = this.system_attrs.get("fixed_params")  # none if another machine took what waited, and this was begun
    alike = [other for other in earlier if other.system_attrs.get("fixed_params") == queued]
    if queued is None or any(other.state != TrialState.FAIL for other in alike):
        _end(trial)


def _until(trial: optuna.Trial) -> list[FrozenTrial]:
    return [other for other in trial.study.get_trials(deepcopy=False) if other.number <= trial.number]


def _end(trial: optuna.Trial) -> NoReturn:
    trial.set_user_attr("error", SURPLUS)
    raise RuntimeError(SURPLUS)


def _unless_interrupted(objective: Callable[[optuna.Trial], float], trial: optuna.Trial) -> float:
    """Scores a trial; one that is interrupted has not failed, but waits for its next turn."""
    try:
        return objective(trial)
    except KeyboardInterrupt:
        this = _until(trial)[-1]
        again = create_trial(
            state=TrialState.WAITING,
            params=this.params,
            distributions=this.distributions,
            system_attrs=this.system_attrs,
        )
        trial.set_user_attr("error", INTERRUPTED)
        trial.study.add_trial(again)
        raise


def _counts(trial: FrozenTrial) -> bool:
    """Tells whether a trial is one of those that were asked for, and not a repetition or one too many."""
    is_first_try = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial) is None
    return is_first_try and trial.user_attrs.get("error") not in (SURPLUS, INTERRUPTED)
