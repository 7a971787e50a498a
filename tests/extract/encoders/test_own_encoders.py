"""Encoders from files: the HowTo100M release's, TorchScript, torch.export, ONNX."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from references import residual

from extract.networks import Small, noise, refusal, save_script, write_onnx
from mcn_lightning.extract.decode import PictureSize
from mcn_lightning.extract.encoders import make_encoder
from mcn_lightning.extract.encoders.resnext3d import ResNeXt3D

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def planes(pictures: torch.Tensor) -> torch.Tensor:
    return ((pictures / 255 - MEAN) / STD).movedim(-1, 1)


# --- the HowTo100M release


def test_the_resnext_has_the_released_names_and_shapes_and_equals_the_formula(tmp_path):
    shapes = residual.shapes(**residual.RESNEXT101_3D)
    assert {name: tuple(value.shape) for name, value in ResNeXt3D().state_dict().items()} == shapes
    state = residual.random_state(shapes)
    torch.save(state, tmp_path / "plain.pth")
    classified = {**state, "fc.weight": torch.zeros(400, 2048), "fc.bias": torch.zeros(400)}
    old = {f"module.{name}": value for name, value in classified.items() if not name.endswith("num_batches_tracked")}
    torch.save({"state_dict": old, "arch": "resnext-101", "epoch": 10}, tmp_path / "wrapped.pth")
    encoder = make_encoder(f"howto100m:resnext101/{tmp_path / 'plain.pth'}", rate=1.5)
    assert (encoder.size, encoder.frames, encoder.frame_rate) == (PictureSize(112, 112), 16, 24.0)
    clips = noise(1, 16, 112, 112)
    rows = encoder.rows(clips)
    x = (clips.float() - torch.tensor([110.6, 103.2, 96.3])).movedim(-1, 1)
    slow = residual.residual_network(state, x, residual.RESNEXT101_3D["blocks"], 32)
    torch.testing.assert_close(rows, slow / slow.norm(dim=1, keepdim=True), rtol=1e-3, atol=1e-5)
    assert rows.shape == (1, 2048) and slow.std() > 0
    again = make_encoder("howto100m:resnext101", str(tmp_path / "wrapped.pth"), normalize=False)
    torch.testing.assert_close(again.rows(clips), slow, rtol=1e-3, atol=1e-4 * slow.abs().max().item())


def test_the_released_resnet_takes_whole_pictures_and_torchvisions_weights(tmp_path):
    pytest.importorskip("timm", reason="needs timm")
    shapes = residual.shapes(**residual.RESNET152)
    state = residual.random_state(shapes)
    torch.save({**state, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, tmp_path / "w.pth")
    encoder = make_encoder("howto100m:resnet152", str(tmp_path / "w.pth"), rate=1)
    assert encoder.size == PictureSize(224, None, "bicubic") and encoder.width == 2048 and encoder.frame_rate is None
    wide = noise(1, 224, 398)
    slow = residual.residual_network(state, planes(wide), residual.RESNET152["blocks"], 1)
    torch.testing.assert_close(encoder.rows(wide), slow / slow.norm(dim=1, keepdim=True), rtol=1e-3, atol=1e-5)
    models = pytest.importorskip("torchvision", reason="needs torchvision").models
    network = models.resnet152().eval()
    network.load_state_dict(torch.load(tmp_path / "w.pth"))
    network.fc = torch.nn.Identity()
    with torch.inference_mode():
        assert torch.equal(encoder.encode(wide), network(encoder.pixels(wide)))


def test_the_recipe_of_the_release_holds_its_rate(tmp_path):
    state = residual.random_state(residual.shapes(**residual.RESNEXT101_3D))
    torch.save(state, tmp_path / "r.pth")
    told = refusal("howto100m:resnext101", str(tmp_path / "r.pth"), rate=1)
    assert "expected rate 1.5, as a row is made of 16 frames at 24 a second, found 1" in told
    del state["layer3.22.conv2.weight"]
    torch.save(state, tmp_path / "r.pth")
    assert "found a file that lacks layer3.22.conv2.weight" in refusal("howto100m:resnext101", str(tmp_path / "r.pth"))
    state["layer3.22.conv2.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "r.pth")
    assert "has in another shape layer3.22.conv2" in refusal("howto100m:resnext101", str(tmp_path / "r.pth"))
    assert "write howto100m:resnext101/resnext101.pth" in refusal("howto100m:resnext101")


# --- files of one's own


def save_export(path: Path) -> None:
    size, other = torch.export.Dim("height", min=8), torch.export.Dim("width", min=8)
    dims = ({0: torch.export.Dim("batch"), 2: size, 3: other},)
    torch.export.save(torch.export.export(Small().eval(), (torch.zeros(2, 3, 32, 40),), dynamic_shapes=dims), str(path))


@pytest.mark.parametrize("write", [save_script, save_export])
def test_a_network_in_a_file_gives_its_own_rows_for_pictures_of_every_shape(write, tmp_path):
    write(tmp_path / "small.pt2")
    encoder = make_encoder(f"torch:{tmp_path / 'small.pt2'}", arguments={"short_side": 40, "crop": 0})
    assert encoder.size == PictureSize(40, None, "bicubic") and encoder.width == 5
    for x in (noise(1, 40, 40), noise(7, 40, 71), noise(2, 90, 40)):
        with torch.inference_mode():
            torch.testing.assert_close(encoder.rows(x), Small().eval()(planes(x)), rtol=1e-5, atol=1e-6)
    half = make_encoder(f"torch:{tmp_path / 'small.pt2'}", arguments={"mean": [0.5] * 3, "std": [0.5] * 3})
    assert half.size == PictureSize(256, 224, "bicubic")
    with torch.inference_mode():
        expected = Small().eval()((noise(1, 224, 224) / 127.5 - 1).movedim(-1, 1))
    torch.testing.assert_close(half.rows(noise(1, 224, 224)), expected, rtol=1e-5, atol=1e-6)


def test_a_network_of_clips_in_a_file(tmp_path):
    class Clips(Small):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            return self.linear(self.convolution(clips.mean(2)).relu().mean((2, 3)))

    torch.jit.script(Clips().eval()).save(str(tmp_path / "clips.pt"))
    arguments = {"frames": 6, "short_side": 32, "crop": 32}
    encoder = make_encoder(f"torch:{tmp_path / 'clips.pt'}", arguments=arguments, rate=2)
    assert (encoder.frames, encoder.frame_rate) == (6, 12.0)
    x = noise(3, 6, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.rows(x), Clips().eval()(planes(x)), rtol=1e-5, atol=1e-6)
    told = refusal(f"torch:{tmp_path / 'clips.pt'}", arguments={**arguments, "frame_rate": 24.0}, rate=2)
    assert "expected rate 4, as a row is made of 6 frames at 24 a second, found 2" in told
    assert "(2, 224, 224, 3) into (2, width), found " in refusal(f"torch:{tmp_path / 'clips.pt'}")


class Ran:
    """A pickle that tells that it was run."""

    def __reduce__(self):
        return os.mkdir, (os.environ["RAN"],)


def change(source: Path, target: Path, entry: str, new: bytes | None = None, **replaced: str) -> None:
    """Copy an archive with another content of an entry, or with texts of it replaced."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as written:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(entry):
                for was, becomes in replaced.items():
                    assert was.encode() in content
                    content = content.replace(was.encode(), becomes.encode())
                content = content if new is None else new
            written.writestr(name, content)


def test_no_file_of_a_network_can_run_code(tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    monkeypatch.setenv("RAN", str(ran))
    torch.save(Ran(), tmp_path / "pickle.pt")
    assert "found a pickle of torch.save, which could run code" in refusal(f"torch:{tmp_path / 'pickle.pt'}")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Ran()))
    assert "another format" in refusal(f"torch:{tmp_path / 'bare.pt'}")
    save_export(tmp_path / "good.pt2")
    bad, model = tmp_path / "bad.pt2", "models/model.json"

    change(tmp_path / "good.pt2", bad, "sample_inputs/model.pt", new=(tmp_path / "pickle.pt").read_bytes())
    refusal(f"torch:{bad}")
    assert not ran.exists()  # and torch's own loader runs it:
    with suppress(Exception):  # what it says afterwards differs between versions
        torch.export.load(str(bad))
    assert ran.exists()
    ran.rmdir()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ

    change(tmp_path / "good.pt2", bad, model, **{"torch.ops.aten.relu.default": "torch.hub.os.system"})
    assert "found target 'torch.hub.os.system'" in refusal(f"torch:{bad}")
    call = "__import__('os').mkdir('x')"
    with zipfile.ZipFile(tmp_path / "good.pt2") as archive:
        symbol = re.search(r"Symbol\('\w+', positive=True, integer=True\)", archive.read(f"good/{model}").decode())[0]
    change(tmp_path / "good.pt2", bad, model, **{symbol: call})
    assert f"found expr_str {call!r:.60}" in refusal(f"torch:{bad}")
    change(tmp_path / "good.pt2", bad, model, **{'"guards_code": []': '"guards_code": ["print(1)"]'})
    assert "found guards_code 'print(1)'" in refusal(f"torch:{bad}")
    change(tmp_path / "good.pt2", bad, model, **{'"name": "relu"': '"name": "relu = print(1); x"'})
    assert "found name 'relu = print(1); x'" in refusal(f"torch:{bad}")
    change(
        tmp_path / "good.pt2",
        bad,
        model,
        **{'\\"builtins.dict\\", \\"context\\": \\"[]': '\\"x\\", \\"context\\": \\"__enum__'},
    )
    assert "found in_spec " in refusal(f"torch:{bad}")
    change(tmp_path / "good.pt2", bad, model)
    with zipfile.ZipFile(bad, "a") as archive:
        archive.writestr("good/data/aotinductor/model/code.so", b"")
    assert "found the file good/data/aotinductor/model/code.so" in refusal(f"torch:{bad}")
    torch.save({"a": Ran()}, tmp_path / "weights.pth")
    assert "found objects beside tensors" in refusal("howto100m:resnext101", str(tmp_path / "weights.pth"))
    assert not ran.exists()


@pytest.mark.parametrize("shape", [("n", 3, "h", "w"), (4, 3, 48, 48), ("n", 3, 5, 48, 48)])
def test_a_network_of_onnx_follows_the_sizes_of_its_file(shape, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    weight = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    write_onnx(tmp_path / "mean.onnx", weight, shape)
    encoder = make_encoder(f"onnx:{tmp_path / 'mean.onnx'}", rate=2)
    crop = 224 if shape[-1] == "w" else 48
    assert encoder.size == PictureSize(crop * 8 // 7 + (crop == 48), crop, "bicubic") and encoder.width == 7
    clips = len(shape) == 5
    assert (encoder.frames, encoder.frame_rate) == ((5, 10.0) if clips else (1, None))
    x = noise(6, *[5] * clips, crop, crop)  # six are more than one batch of four, and less than two
    torch.testing.assert_close(encoder.rows(x), planes(x).flatten(2).mean(2) @ weight, rtol=1e-4, atol=1e-5)
    if shape[-1] == "w":
        whole = make_encoder(f"onnx:{tmp_path / 'mean.onnx'}", arguments={"crop": 0, "short_side": 30})
        x = noise(2, 30, 55)
        torch.testing.assert_close(whole.rows(x), planes(x).flatten(2).mean(2) @ weight, rtol=1e-4, atol=1e-5)


def test_damaged_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "small.pt").write_bytes(b"")
    (tmp_path / "small.onnx").write_bytes(b"no model")
    assert "small.pt" in refusal(f"torch:{tmp_path / 'smal.pt'}") and "did you mean small.pt" in refusal(
        f"torch:{tmp_path / 'smal.pt'}"
    )
    assert "found another format or a part of one" in refusal(f"torch:{tmp_path / 'small.pt'}")
    assert "found no file" in refusal(f"onnx:{tmp_path / 'x' / 'y.onnx'}")
    if importlib.util.find_spec("onnxruntime"):
        assert "expected a model with its weights, found " in refusal(f"onnx:{tmp_path / 'small.onnx'}")
        write_onnx(tmp_path / "small.onnx", torch.zeros(3, 2), ("n", 3, "h"))
        assert "expected an input (B, 3, height, width)" in refusal(f"onnx:{tmp_path / 'small.onnx'}")
    assert "found an empty file" in refusal("howto100m:resnext101", str(tmp_path / "small.pt"))
    whole = tmp_path / "whole.pt"
    save_script(whole)
    (tmp_path / "cut.pt").write_bytes(whole.read_bytes()[:-200])
    refusal(f"torch:{tmp_path / 'cut.pt'}")
    assert "omit them" in refusal(f"torch:{whole}", str(whole))
