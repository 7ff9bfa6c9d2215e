"""Errors fit in one line, without passwords."""

import pytest

from mnist_lightning.errors import Parser, UserError, check_range, hide_passwords, needs_extra, one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://ann:se/c:ret@host:5432/x", "postgresql+psycopg://ann:***@host:5432/x"),
        (
            "--storage=postgresql://host/x?password=secret&user=ann",
            "--storage=postgresql://host/x?password=***&user=ann",
        ),
        ("postgresql://host/x?password=s%40cret%26user=ann", "postgresql://host/x?password=***%26user=ann"),
        ("postgresql://ann:se@c:ret@host/x", "postgresql://ann:***@host/x"),
        ("postgresql://ann@host/x", "postgresql://ann@host/x"),
        ("sqlite:///tuning/cnn/study.db", "sqlite:///tuning/cnn/study.db"),
        ("--model.init_args.learning_rate=0.01", "--model.init_args.learning_rate=0.01"),
    ],
)
def test_passwords_are_hidden(text: str, shown: str) -> None:
    assert hide_passwords(text) == shown
    assert one_line(ValueError(text)) == shown


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("first\n  second\tthird"), "first second third"),
        (ValueError("\x1b[31mred\x07"), "?[31mred?"),
        (ValueError("a" * 1001), "a" * 1000 + " …"),
        (FileNotFoundError(2, "No such file or directory", "no.yaml"), "no.yaml: No such file or directory"),
        (OSError("cut off"), "cut off"),
    ],
)
def test_error_is_shown_in_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


def test_value_out_of_range_is_reported() -> None:
    check_range("dropout", 0.5, True, "less than 1")
    with pytest.raises(UserError) as error:
        check_range("dropout", 1.5, False, "less than 1")
    assert str(error.value) == "dropout 1.5 is not allowed; it must be less than 1"


def test_missing_package_is_reported_with_the_extra_to_install() -> None:
    with pytest.raises(UserError) as error, needs_extra("serve"):
        raise ImportError("No module named 'flask'")
    assert str(error.value) == (
        "serve needs more packages (No module named 'flask'); pip install 'mnist_lightning[serve]'"
    )


def test_wrong_flag_is_reported_with_the_way_to_help() -> None:
    with pytest.raises(UserError) as error:
        Parser("mnist_lightning serve").parse_args(["--workers", "2"])
    assert str(error.value) == "unrecognized arguments: --workers 2; see mnist_lightning serve --help"
