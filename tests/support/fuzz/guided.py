"""Coverage-guided fuzzing of one target with atheris (libFuzzer):

    pip install atheris
    PYTHONPATH=tests python -m support.fuzz.guided image -max_total_time=600 FOLDER

FOLDER gets the inputs that reach new code; without it they are forgotten. All further arguments
are libFuzzer's. The committed inputs (tests/fuzz/corpus) are read first. An input that raises
anything but a typed error, or takes longer than -timeout, is written to a file, and the run ends
with an error.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

from support.fuzz.messages import damaged_message


def main(arguments: list[str]) -> None:
    import atheris  # type: ignore[import-not-found]

    name, *more = arguments
    # What is imported here reports the code that it runs.
    with atheris.instrument_imports(include=["ois_client", "ois_runtime.front", "PIL"]):
        from support.fuzz.targets import CORPUS, TARGETS
    target = TARGETS[name]

    def run(data: bytes) -> None:
        try:
            target.read(data)
        except target.errors as error:
            text = str(error)
            if len(text) < 10 or "Traceback" in text:
                raise AssertionError(f"a message that does not help: {text!r}") from error

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        """A protobuf message keeps its structure; anything else is left to libFuzzer."""
        return damaged_message(random.Random(seed), data)[:most]

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(target.seeds):
            (Path(folder) / str(number)).write_bytes(seed)
        # libFuzzer writes to the first folder, which must not be the committed one.
        known = [str(path) for path in (Path(folder), CORPUS / name) if path.is_dir()]
        made = [one for one in more if not one.startswith("-")]
        options = [one for one in more if one.startswith("-")]
        atheris.Setup(
            [sys.argv[0], "-timeout=20", "-rss_limit_mb=2048", *options, *made, *known],
            run,
            **({"custom_mutator": mutate} if name == "message" else {}),
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
