"""The `ois` application: its commands, its exit codes and its error messages."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ois_cli import (
    build,
    checkpoint,
    cluster,
    doctor,
    export,
    label,
    lint,
    segment,
    serve,
    train,
)
from ois_cli.annotating import command as annotate
from ois_cli.batch.on_ray import LOCAL
from ois_cli.bench import app as bench
from ois_cli.demo import command as demo
from ois_cli.encoding import command as encode
from ois_cli.extras import missing_extra
from ois_cli.output import as_ois_error, print_error, say
from ois_cli.show import app as show

# gRPC would log, on stderr, that a server has ended its connection.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

EXIT_INTERNAL = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

# Typer does not export the base class of its usage errors, and recent versions carry their own
# copy of click. The base class of BadParameter is the right one in every version.
_ClickException: Any = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

app = typer.Typer(
    name="ois",
    help="Order-aware interactive segmentation: encode an image once, answer every click.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback()
def _options(
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="Show the traceback of an error; may be anywhere on the line."
        ),
    ] = False,
) -> None:
    """Order-aware interactive segmentation: encode an image once, answer every click."""
    # `main` reads --debug, so that it also works after the command's name.


doctor.register(app)
segment.register(app)
annotate.register(app)
encode.register(app)
label.register(app)
train.register(app)
export.register(app)
lint.register(app)
build.register(app)
demo.register(app)
show.register(app)
checkpoint.register(app)
bench.register(app)
serve.register(app)
cluster.register(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ois` with `argv` (default: the process's arguments) and return its exit code.

    0: success. 1: a defect of this program; also a broken installation (`doctor`) or no
    measurement (`bench spc`, `bench sat`). 2: an error that the user can fix. 3: finished, but
    some items failed (`encode`, `annotate`). 130: interrupted.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    options = args[: args.index("--")] if "--" in args else args
    debug, as_json = "--debug" in options, "--json" in options
    words = _with_ray_address([arg for arg in options if arg != "--debug"])
    args = words + args[len(options) :]
    try:
        result = app(args, prog_name="ois", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except _ClickException as error:
        print_error("USAGE", error.format_message(), as_json=as_json)
        return EXIT_ERROR
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report(missing_extra(error, args) or error, as_json=as_json)
    if result == EXIT_INTERRUPTED:  # recent Typer returns this instead of raising
        return _interrupted()
    return result if isinstance(result, int) else 0


def _with_ray_address(words: list[str]) -> list[str]:
    """Give `--ray` its value where it stands without one: Typer has no optional values."""
    following = [*words[1:], "-"]
    return [
        f"--ray={LOCAL}" if word == "--ray" and after.startswith("-") else word
        for word, after in zip(words, following, strict=True)
    ]


def _interrupted() -> int:
    say("interrupted; no file was left incomplete")
    return EXIT_INTERRUPTED


def _report(error: Exception, *, as_json: bool) -> int:
    known = as_ois_error(error)
    if known is not None:
        print_error(known.code, str(known), as_json=as_json)
        return EXIT_ERROR
    text = (
        f"{type(error).__name__}: {error}. This is a defect of ois; run the command again with "
        "--debug and report what it prints"
    )
    print_error("INTERNAL", text, as_json=as_json)
    return EXIT_INTERNAL


if __name__ == "__main__":
    sys.exit(main())
