"""A stranger loads an exported network: no dollkit in that process, equal logits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dollkit.common import compute
from dollkit.common.errors import InputError
from dollkit.training import export, networks, weights
from tests import far

STRANGER = """
import re, sys, torch
sys.modules["dollkit"] = None  # as if it were not installed
try:
    import dollkit
except ImportError:
    pass
else:
    raise SystemExit("dollkit is there")
import segmentation_models_pytorch as smp
from safetensors.torch import load_file, save_file
films, out = load_file("films.safetensors")["x"], {}
with torch.no_grad():
    for folder in sys.argv[1:]:
        out[folder] = torch.export.load(folder + "/network.pt2").module()(films)
    out["smp"] = smp.from_pretrained("relu").eval()(films)
    # What the card says of an activation that smp cannot name.
    net = eval(re.search(r"`(smp\\..*?\\))`", open("silu/README.md").read())[1]).eval()
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, (torch.nn.ReLU, torch.nn.ReLU6)):
                setattr(module, name, torch.nn.SiLU())
    net.load_state_dict(load_file("silu/model.safetensors"))
    out["card"] = net(films)
save_file(out, "logits.safetensors")
"""


@pytest.mark.slow
def test_a_stranger_gets_equal_logits(tmp_path: Path) -> None:
    x = torch.randn(3, 1, 64, 64)
    save_file({"x": x}, tmp_path / "films.safetensors")
    wanted = {}
    for activation, kind in (("relu", "pspnet"), ("silu", "deeplabv3plus")):
        with compute.seeded(1):
            net = networks.build(kind, "tu-test_resnet", 14, activation=activation)
        export.export(net.to(memory_format=torch.channels_last), tmp_path / activation, 64)  # type: ignore[call-overload]
        assert net.training  # the caller's network is left as it is
        with torch.no_grad():
            wanted[activation] = net.eval()(x)
    assert (tmp_path / "relu" / "config.json").is_file()
    assert not (tmp_path / "silu" / "config.json").exists()
    subprocess.run(
        [sys.executable, "-c", STRANGER, "relu", "silu"], cwd=tmp_path, check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    got = load_file(tmp_path / "logits.safetensors")
    for name, logits in (*wanted.items(), ("smp", wanted["relu"]), ("card", wanted["silu"])):
        assert far(got[name], logits) < 1e-4, name


def test_the_card_says_what_the_folder_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = networks.build("unet", "tu-test_resnet", 14)
    weights.save(net, tmp_path, networks.config_of(net))
    (tmp_path / "manifest.json").write_text('{"instance": "pretrain/pspnet-prior", "outputs": {}}')
    assert export.main([str(tmp_path), str(tmp_path / "out"), "--side", "64"]) == 0
    capsys.readouterr()
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(f.name in card for f in (tmp_path / "out").iterdir() if f.name != "README.md")
    assert "activation silu" in card
    assert "stage pretrain/pspnet-prior." in card
    assert "Pneumothorax" in card
    assert "smp.Unet(encoder_name='tu-test_resnet'" in card
    assert export.main([str(tmp_path), str(tmp_path / "out"), "--side", "50"]) == 2
    assert "'side' is 50" in capsys.readouterr().err
    with pytest.raises(InputError, match="multiple of 32"):
        export.export(net, tmp_path, 0)
