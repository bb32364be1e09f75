"""`ois lint`: checks an ONNX graph for operators and types that a target handles wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ois_cli.options import AsJson
from ois_cli.output import print_json
from ois_client.contract.errors import UnsupportedGraph


def register(app: typer.Typer) -> None:
    app.command("lint")(lint)


def lint(
    graph: Annotated[Path, typer.Argument(help="An ONNX file.", show_default=False)],
    target: Annotated[
        str, typer.Option(help="Rules of this target: cpu, cuda or tensorrt.")
    ] = "tensorrt",
    rules: Annotated[
        bool, typer.Option("--rules", help="Also print the reason for each broken rule.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check an ONNX graph against the rules of a target, as [b]ois export[/b] does.

    The exit code is 2 if a rule is broken. The graph is not run.

    Example: [b]ois lint engines/ois-tiny-tensorrt-fp16/encoder.onnx --rules[/b]
    """
    from ois_export.graphs.lint import complaints, load_graph
    from ois_export.targets import Target

    checked = Target.parse(target).rules()
    found = complaints(load_graph(graph), checked)
    if as_json:
        print_json(
            {
                "graph": str(graph),
                "target": target,
                "rules": [rule.__name__ for rule in checked],
                "broken": [{"rule": r.__name__, "complaint": text} for r, text in found],
            }
        )
        raise typer.Exit(code=2 if found else 0)
    explained = set()
    for rule, text in found:
        print(f"{rule.__name__}: {text}")
        if rules and rule not in explained:
            explained.add(rule)
            print("    " + " ".join((rule.__doc__ or "").split()))
    if found:
        broken = len({rule for rule, _ in found})
        raise UnsupportedGraph(
            f"{graph} breaks {broken} of {len(checked)} rules for {target}; --rules explains them"
        )
    print(f"{graph} keeps all {len(checked)} rules for {target}")
