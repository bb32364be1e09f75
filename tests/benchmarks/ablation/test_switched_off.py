"""Parts of a trained network can be switched off; the rest keeps its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ois_benchmarks.ablation.run import NetworkVariant
from ois_benchmarks.ablation.switched_off import PARTS, without
from ois_cli.main import main
from ois_network.checkpoints.checkpoint import save_checkpoint
from support.network_scenes import MICRO, random_network


def test_the_parts_are_those_of_table_4_and_what_the_attentions_add() -> None:
    names = ["default", "no-order", "no-object", "no-sparse", "no-dense"]
    names += [
        "no-order-maps",
        "no-object-masks",
        "no-previous-mask",
        "no-fine-prompts",
        "no-kept-clicks",
    ]
    assert [variant.name for variant in PARTS] == names


#: A network with every part.
FULL = MICRO.replace(patch=16, previous_mask=True, fine_prompts=True, keep_clicks=True)


@pytest.mark.parametrize("variant", PARTS, ids=lambda variant: variant.name)
def test_the_remaining_parts_keep_their_weights(variant: NetworkVariant) -> None:
    network = random_network(FULL, seed=1)
    changed = without(network, variant)
    before = network.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in changed.state_dict().items())
    for name, value in variant.changes.items():
        assert getattr(changed.config, name) is value
    removed = before.keys() - changed.state_dict().keys()
    gone = {name.split(".")[3] if ".blocks." in name else name.split(".")[0] for name in removed}
    if variant.name == "no-sparse":
        assert {"sparse", "order_attention", "object_attention"} <= gone
        return
    assert gone == {
        "no-dense": {"dense"},
        "no-order": {"order_attention", "order_norm", "raw_sigma"},
        "no-object": {"object_attention", "object_norm"},
        "no-previous-mask": {"previous_mask"},
        "no-fine-prompts": {"fine_prompts"},
    }.get(variant.name, set())


def test_the_command_writes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = random_network(FULL, seed=1)
    save_checkpoint(network, tmp_path / "a.safetensors", trained=False)
    output = tmp_path / "off.json"
    arguments = [str(tmp_path / "a.safetensors"), "--objects", "2", "--clicks", "5"]
    assert main(["bench", "switched-off", *arguments, "--output", str(output)]) == 0
    document = json.loads(output.read_text())
    assert [entry["variant"] for entry in document["table"]] == [v.name for v in PARTS]
    assert "recipe" not in document
    assert output.with_suffix(".md").read_text() == capsys.readouterr().out
