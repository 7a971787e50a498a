"""Encoders by name: wrong names, missing packages and weights, the recipes, and a class of one's own."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

from extract.networks import noise, refusal, save_script
from mcn_lightning.errors import InputError
from mcn_lightning.extract.decode import PictureSize
from mcn_lightning.extract.encoders import KINDS, make_encoder
from mcn_lightning.extract.encoders.weights import fetching
from mcn_lightning.extract.options import EncodedStream
from mcn_lightning.options.config import as_config

TOP = Path(__file__).parents[3]
RECIPES = sorted((TOP / "configs" / "extract").glob("*.yaml"))
EXTRAS = {"timm": "timm", "open_clip": "open-clip", "transformers": "transformers", "torchvision": "torchvision"}


@pytest.mark.parametrize(("name", "told"), [
    ("tim:resnet50", "did you mean timm?"),
    ("resnet50", "found neither"),
    ("timm:", "found neither; as in timm:NAME"),
    ("howto100m:resnet151", "did you mean howto100m:resnet152"),
    ("timm:resnet5O", "did you mean resnet50"),
    ("timm:resnet50.a1_in2k", "did you mean resnet50.a1_in1k"),
    ("open_clip:ViT-B32/laion2b_s34b_b79k", "did you mean ViT-B-32"),
    ("open_clip:ViT-B-32/laion2b_s34b_b79", "did you mean laion2b_s34b_b79k"),
    ("open_clip:ViT-B-32", "a pretrained tag of it or a file, found none; there are openai, "),
    ("open_clip:ViT-B-32/none/clip.pt", "found no file none/clip.pt"),
    ("torchvision:r3d18", "did you mean r3d_18"),
    ("torchvision:r3d_18/KINETICS_V1", "did you mean KINETICS400_V1"),
    ("torchvision:fcn_resnet50", "expected a model that classifies"),
    ("transformers:./nofolder", "expected the folder of a model, found no folder nofolder; check the path"),
    ("transformers:/tmp/no/folder", "found no folder /tmp/no/folder"),
    ("transformers:openai/clip-vit-base-patch23", "did you mean openai/clip-vit-base-patch32"),
    ("open_clip:local-dir:/no/folder", "found no folder /no/folder"),
    ("my_encoders.Colour", "expected a subclass of mcn_lightning.extract.encoders.base.Encoder"),
    ("pathlib.Path", "found pathlib.Path, which is none"),
])  # fmt: skip
def test_a_wrong_name_is_told_what_is_near(name, told):
    if (package := name.partition(":")[0]) in EXTRAS:
        pytest.importorskip(package, reason=f"needs {package}")
    assert told in refusal(name)


@pytest.mark.parametrize("name", [
    "timm:resnet10t", "open_clip:ViT-B-32/laion2b_s34b_b79k", "transformers:openai/clip-vit-base-patch32",
    "torchvision:resnet18", "howto100m:resnet152",
])  # fmt: skip
def test_without_network_and_cache_the_message_says_how_to_fetch(name, tmp_path, monkeypatch):
    package = {"howto100m": "timm"}.get(name.partition(":")[0], name.partition(":")[0])
    pytest.importorskip(package, reason=f"needs {package}")
    import urllib.request
    from urllib.error import URLError

    def refuse(*args, **kwargs):
        raise URLError("no network here")

    import huggingface_hub.constants

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    told = refusal(name)
    assert "expected its weights in the cache or a network, found neither; run once where there is a network" in told
    real = "timm:resnet152.tv_in1k" if name.startswith("howto100m") else name
    assert f"make_encoder('{real}')" in told and "~/.cache/" in told


def test_what_libraries_log_while_they_try_is_not_shown(caplog):
    with pytest.raises(InputError, match="found neither; run once where there is a network"), fetching("timm:x", "~"):
        logging.getLogger("huggingface_hub.utils._http").error("Retrying in 1s [Retry 1/5].")
        raise ConnectionError
    logging.getLogger("other").warning("shown")
    assert [record.message for record in caplog.records] == ["shown"]


@pytest.mark.parametrize("package", EXTRAS)
def test_a_missing_package_is_named_with_its_command(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    name = f"{package}:some/model"
    assert refusal(name) == (
        f"{name}: expected the package {package}, found none; pip install 'mcn-lightning[extract-{EXTRAS[package]}]'"
    )


def test_an_image_processor_that_needs_torchvision_says_so(tmp_path, monkeypatch):
    t = pytest.importorskip("transformers", reason="needs transformers")
    pytest.importorskip("torchvision", reason="needs torchvision")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    t.ViTModel(t.ViTConfig(**sizes, image_size=32)).save_pretrained(tmp_path)

    def refuse(source):  # as transformers does where torchvision is absent
        raise ValueError("Could not load any image processor class: torchvision: DINOv3ViTImageProcessor")

    monkeypatch.setattr(t.AutoImageProcessor, "from_pretrained", refuse)
    monkeypatch.setattr("mcn_lightning.extract.encoders.transformers.find_spec", lambda module: None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    told = "expected the package torchvision, found none; pip install 'mcn-lightning[extract-torchvision]'"
    assert refusal(f"transformers:{tmp_path}") == f"transformers:{tmp_path}: {told}"


def test_a_folder_without_a_model_is_refused(tmp_path):
    pytest.importorskip("transformers", reason="needs transformers")
    pytest.importorskip("torchvision", reason="needs torchvision")
    assert "expected a model with its weights, found " in refusal(f"transformers:{tmp_path}")


def test_making_an_encoder_of_files_imports_no_library_of_models(tmp_path):
    import subprocess

    save_script(tmp_path / "small.pt")
    code = (
        "import sys; from mcn_lightning.extract.encoders import make_encoder; "
        f"make_encoder('torch:{tmp_path / 'small.pt'}'); "
        "print(sorted({'timm', 'torchvision', 'open_clip', 'transformers', 'onnxruntime', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# --- recipes and the page


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_encoders_of_a_recipe_exist(path):
    text = path.read_text()
    streams = yaml.safe_load(text)["streams"]
    assert text.startswith("# ") and len({each["name"] for each in streams}) == len(streams) > 0
    for stream in streams:
        assert {"name", "encoder", "rate"} <= stream.keys() <= {"name", "encoder", "rate", "weights", "normalize"}
        assert as_config(EncodedStream, stream, "streams").encoder == stream["encoder"]
        name = stream["encoder"]
        head = name.partition("/")[0]
        assert head in KINDS or name.partition(":")[0] in KINDS
        if (package := name.partition(":")[0]) in EXTRAS:
            module, _, model = name.partition(":")
            library = pytest.importorskip(module, reason=f"needs {package}")
            known = (
                library.list_models() if package == "timm" else ["/".join(each) for each in library.list_pretrained()]
            )
            assert model in known
    assert {each.stem for each in RECIPES} == {"clip", "howto100m", "small"}


@pytest.fixture
def colour(tmp_path, monkeypatch) -> str:
    """The class of the page, in a file of the working directory."""
    page = (TOP / "docs" / "extending" / "encoder.md").read_text()
    (tmp_path / "my_encoder.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield page
    sys.modules.pop("my_encoder", None)


def test_the_encoder_of_the_page_works_as_it_says(colour):
    stream = yaml.safe_load(re.search(r"```yaml\n(.*?)```", colour, re.DOTALL)[1])["streams"][0]
    encoder = make_encoder(stream["encoder"], rate=stream["rate"], arguments=stream["arguments"])
    bins = stream["arguments"]["bins"]
    assert encoder.width == 3 * bins and encoder.size == PictureSize(64)
    x = noise(2, 64, 90)
    slow = torch.stack([
        torch.cat([torch.histc(picture[..., channel].float(), bins, 0, 256) for channel in range(3)]) / (64 * 90)
        for picture in x
    ])  # fmt: skip
    torch.testing.assert_close(encoder.rows(x), slow)
    unit = make_encoder(stream["encoder"], arguments=stream["arguments"], normalize=True)
    torch.testing.assert_close(unit.rows(x), slow / slow.norm(dim=1, keepdim=True))
    told = refusal(stream["encoder"], arguments={"bin": 4})
    assert told.endswith(
        "arguments.bin: expected an argument of ColourHistogram (bins), found no such one; did you mean bins?"
    )
    assert "expected an argument of ColourHistogram (bins)" in refusal(stream["encoder"], "weights.pth")


def test_a_class_that_lacks_a_part_is_refused(tmp_path, monkeypatch):
    (tmp_path / "lacking.py").write_text(
        "from mcn_lightning.extract.encoders import Encoder, PictureSize\n"
        "class NoEncode(Encoder):\n    width, size = 1, PictureSize(8)\n"
        "class NoWidth(Encoder):\n    size = PictureSize(8)\n    def encode(self, pictures): return pictures\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert "expected NoEncode to have the method encode, found none; write it" in refusal("lacking.NoEncode")
        assert "expected the attributes width and size, found no width; set it" in refusal("lacking.NoWidth")
    finally:
        sys.modules.pop("lacking", None)


def test_options_of_a_built_in_kind_are_checked(tmp_path):
    save_script(tmp_path / "s.pt")
    name = f"torch:{tmp_path / 's.pt'}"
    assert "expected an argument of TorchFileEncoder (short_side, crop, " in refusal(name, arguments={"crp": 3})
    assert "expected arguments of TorchFileEncoder" in refusal(name, arguments={"crop": "wide"})
    assert json.dumps(make_encoder(name, arguments={"crop": 32}).width) == "5"
