"""Encoders of pictures against the libraries they come from: real and tiny random networks, nothing downloaded."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from extract.networks import lite0_weights, noise
from mcn_lightning.extract.decode import PictureSize, decode_video
from mcn_lightning.extract.encoders import Encoder, Pixels, make_encoder
from mcn_lightning.extract.encoders.base import normalized

timm = pytest.importorskip("timm", reason="needs timm")
DAISY, PALACE = 985, 698
"""Classes of ImageNet."""


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """scikit-learn's pictures of a flower and a palace in China, 427 x 640."""
    from sklearn.datasets import load_sample_images

    images = dict(zip(["palace", "daisy"], load_sample_images().images, strict=True))
    return [images["daisy"], images["palace"]]


class Taken:
    """Keeps the pictures of a film."""

    def __init__(self, size: PictureSize) -> None:
        self.size, self.frame_rate, self.pictures = size, 1.0, []

    def take(self, picture: np.ndarray) -> None:
        self.pictures.append(torch.from_numpy(picture.copy()))


def decoded(picture: np.ndarray, size: PictureSize) -> torch.Tensor:
    """A picture as the decoder gives it, in a batch of one: through a film without loss."""
    sink = Taken(size)
    with tempfile.TemporaryDirectory() as folder:
        with av.open(f"{folder}/film.mkv", "w") as container:
            stream = container.add_stream("ffv1", rate=1)
            stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "bgr0"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format="bgr0")
            container.mux([*stream.encode(frame), *stream.encode()])
        decode_video(Path(folder) / "film.mkv", [sink])
    return torch.stack(sink.pictures)


def save(network: torch.nn.Module, path: Path) -> str:
    torch.save(network.state_dict(), path)
    return str(path)


# --- what all share


def test_pixels_are_scaled_and_standardised_in_each_channel():
    found = normalized(noise(2, 4, 5, 6), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 4.0]))
    assert found.shape == (2, 4, 3, 5, 6)
    slow = (noise(2, 4, 5, 6)[1, 3, 4, 2].double() / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([1, 2, 4])
    torch.testing.assert_close(found[1, 3, :, 4, 2].double(), slow.double(), rtol=1e-6, atol=1e-7)


def test_pictures_are_squashed_and_cut_as_pillow_does(pictures):
    from PIL import Image

    pixels = Pixels([0.0] * 3, [1.0] * 3, resize=(128, 171), crop=(112, 100))
    found = pixels(torch.from_numpy(np.stack(pictures)))
    for picture, row in zip(pictures, found, strict=True):
        planes = [Image.fromarray(plane.astype(np.float32)) for plane in picture.transpose(2, 0, 1)]  # without rounding
        slow = [np.asarray(plane.resize((171, 128), Image.Resampling.BICUBIC))[8:120, 36:136] for plane in planes]
        assert row.shape == (3, 112, 100)
        assert np.abs(row.numpy() - np.clip(slow, 0, 255) / 255).max() < 1e-4


def test_rows_of_length_one_by_option_and_without_gradient(tmp_path):
    weights = save(timm.create_model("resnet10t", num_classes=0), tmp_path / "w.pth")
    plain = make_encoder("timm:resnet10t", weights)
    unit = make_encoder("timm:resnet10t", weights, normalize=True)
    assert isinstance(plain, Encoder) and not plain.training and not any(p.requires_grad for p in plain.parameters())
    x = noise(3, 64, 80)
    rows = plain.rows(x)
    assert rows.shape == (3, plain.width) == (3, 512) and rows.dtype == torch.float32 and not rows.requires_grad
    torch.testing.assert_close(unit.rows(x), rows / rows.norm(dim=1, keepdim=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = plain.rows(x)
    assert half.dtype == torch.float32 and F.cosine_similarity(half, rows).min() > 0.99


# --- timm


def test_a_real_network_of_timm_equals_timms_own_preprocessing_and_names_what_it_sees(tmp_path, pictures):
    from PIL import Image

    weights = lite0_weights(tmp_path)
    encoder = make_encoder("timm:tf_efficientnet_lite0", str(weights))
    assert encoder.size == PictureSize(256, 224, "bicubic") and encoder.width == 1280
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(torch.load(weights), strict=False)  # all but num_batches_tracked
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(whole))
    own = torch.stack([transform(Image.fromarray(each)) for each in pictures])
    with torch.inference_mode():
        expected = whole.forward_head(whole.forward_features(own), pre_logits=True)
    cut = torch.stack([_levels(each, encoder.pixels) for each in own])  # timm's scaling, our standardisation
    torch.testing.assert_close(encoder.rows(cut), expected, rtol=1e-4, atol=1e-4)
    ours = torch.cat([encoder.rows(decoded(each, encoder.size)) for each in pictures])  # our scaling too
    assert F.cosine_similarity(ours, expected).min() > 0.97
    with torch.inference_mode():
        assert whole.classifier(ours).argmax(dim=1).tolist() == [DAISY, PALACE]


def _levels(picture: torch.Tensor, pixels: Pixels) -> torch.Tensor:
    """The whole numbers from which a standardised picture was made."""
    return ((picture.permute(1, 2, 0) * pixels.std + pixels.mean) * 255).round().to(torch.uint8)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"input_size": (3, 224, 224), "crop_pct": 0.9}, PictureSize(248, 224, "bicubic")),  # 248.9: timm rounds down
        (
            {"input_size": (3, 224, 224), "crop_pct": 1.0, "interpolation": "bilinear"},
            PictureSize(224, 224, "bilinear"),
        ),
        ({"input_size": (3, 96, 96), "crop_pct": 1.0, "crop_mode": "squash"}, PictureSize(96, None, "bicubic")),
        ({"input_size": (3, 96, 64), "crop_pct": 1.0}, PictureSize(96, None, "bicubic")),
    ],
)
def test_every_data_config_of_timm_is_followed(config, size, pictures):
    from PIL import Image

    from mcn_lightning.extract.encoders.timm import _preparation

    config = {"interpolation": "bicubic", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), **config}
    found, pixels = _preparation(config, "timm:x")
    assert found == size
    own = timm.data.create_transform(**config)(Image.fromarray(pictures[0]))
    ours = pixels(decoded(pictures[0], found))[0]
    assert ours.shape == own.shape
    assert (
        ours - own
    ).abs().mean() < 0.12  # a quarter of a pixel of shift, and other cubic kernels; a wrong crop gives more


def test_the_width_is_what_the_network_returns_and_not_what_timm_calls_its_features(tmp_path):
    network = timm.create_model("mobilenetv3_small_050")
    encoder = make_encoder("timm:mobilenetv3_small_050", save(network, tmp_path / "w.pth"))
    assert network.num_features == 288 and encoder.width == encoder.rows(noise(1, 64, 64)).shape[1] == 1024


# --- torchvision


@pytest.mark.parametrize("model", ["resnet18", "mobilenet_v3_small/IMAGENET1K_V1", "vit_b_32"])
def test_a_network_of_torchvision_equals_itself_before_the_classifier(model, tmp_path):
    models = pytest.importorskip("torchvision", reason="needs torchvision").models
    name = model.partition("/")[0]
    torch.manual_seed(0)
    network = models.get_model(name).eval()
    encoder = make_encoder(f"torchvision:{model}", save(network, tmp_path / "w.pth"))
    assert encoder.frame_rate is None and encoder.size.crop == 224
    x = noise(2, 224, 224)
    transforms = models.get_model_weights(name)[model.partition("/")[2] or "DEFAULT"].transforms()
    transforms.resize_size = [224]
    taken = []
    last = [layer for layer in network.modules() if getattr(layer, "out_features", 0) == 1000][-1]
    last.register_forward_hook(lambda module, inputs, output: taken.append(inputs[0]))
    with torch.inference_mode():
        network(transforms(x.permute(0, 3, 1, 2)))
    torch.testing.assert_close(encoder.rows(x), taken[0], rtol=1e-4, atol=1e-5)
    assert encoder.width == taken[0].shape[1]


@pytest.mark.parametrize(("name", "width", "sides"), [("r3d_18", 512, (130, 180)), ("s3d", 1024, (256, 300))])
def test_a_video_network_of_torchvision_equals_itself_with_its_own_transforms(name, width, sides, tmp_path):
    models = pytest.importorskip("torchvision", reason="needs torchvision").models
    torch.manual_seed(0)
    network = models.get_model(name).eval()
    encoder = make_encoder(f"torchvision:{name}", save(network, tmp_path / "w.pth"), rate=0.5)
    assert (encoder.frames, encoder.frame_rate, encoder.width) == (16, 8.0, width)
    smooth = F.interpolate(noise(16, 9, 12).permute(0, 3, 1, 2).float(), sides, mode="bicubic").clamp(0, 255).byte()
    clip = smooth.permute(0, 2, 3, 1)[None]  # smooth, as torchvision's scaling does not smooth before it drops pixels
    with torch.inference_mode():
        planes = models.get_model_weights(name).DEFAULT.transforms()(smooth[None])
        if name == "s3d":
            expected = network.avgpool(network.features(planes)).mean((2, 3, 4))
        else:
            network.fc = torch.nn.Identity()
            expected = network(planes)
    assert F.cosine_similarity(encoder.rows(clip), expected).item() > 0.999
    torch.testing.assert_close(encoder.pixels(clip).movedim(1, 2), planes, rtol=0, atol=0.06)


# --- open_clip


def test_open_clip_gives_the_embeddings_of_images(tmp_path, pictures):
    open_clip = pytest.importorskip("open_clip", reason="needs open_clip")
    from PIL import Image

    tiny = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-clip.json").write_text(json.dumps(tiny))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    torch.manual_seed(0)
    network, _, preprocess = open_clip.create_model_and_transforms("tiny-clip")
    weights = save(network.eval(), tmp_path / "tiny.pt")
    encoder = make_encoder(f"open_clip:tiny-clip/{weights}")
    assert encoder.size == PictureSize(64, 64, "bicubic") and encoder.width == 24
    own = torch.stack([preprocess(Image.fromarray(each)) for each in pictures])
    with torch.inference_mode():
        expected = network.encode_image(own)
    rows = encoder.rows(torch.stack([_levels(each, encoder.pixels) for each in own]))
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(make_encoder("open_clip:tiny-clip", weights).rows(noise(1, 64, 64)),
                               encoder.rows(noise(1, 64, 64)))  # fmt: skip

    folder = tmp_path / "folder"  # a model saved whole, whose pictures are squashed
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(
        json.dumps(
            {"model_cfg": tiny, "preprocess_cfg": {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}}
        )
    )
    torch.save(network.state_dict(), folder / "open_clip_pytorch_model.bin")
    squashed = make_encoder(f"open_clip:local-dir:{folder}")
    assert squashed.size == PictureSize(64, None, "bicubic") and squashed.pixels.resize == (64, 64)
    assert squashed.rows(noise(2, 64, 113)).shape == (2, 24)


# --- transformers

VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
          "image_size": 64, "patch_size": 16}  # fmt: skip
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 50}
SQUARE, CUT = {"height": 64, "width": 64}, {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}


def _model(kind: str):
    """A tiny random model of transformers, its image processor, and the size of its pictures."""
    import transformers as t

    makers = {
        "clip": lambda: (t.CLIPModel(t.CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=24)),
                         t.CLIPImageProcessor(**CUT), PictureSize(72, 64, "bicubic")),
        "siglip": lambda: (t.SiglipModel(t.SiglipConfig(vision_config=VISION, text_config=TEXT)),
                           t.SiglipImageProcessor(size=SQUARE), PictureSize(64, None, "bicubic")),
        "dinov2": lambda: (t.Dinov2Model(t.Dinov2Config(**VISION)),
                           t.BitImageProcessor(**CUT), PictureSize(72, 64, "bicubic")),
        "dinov3": lambda: (t.DINOv3ViTModel(t.DINOv3ViTConfig(**VISION)),
                           t.DINOv3ViTImageProcessor(size=SQUARE), PictureSize(64, None, "bilinear")),
        "vit": lambda: (t.ViTModel(t.ViTConfig(**VISION), add_pooling_layer=False),
                        t.ViTImageProcessor(size=SQUARE), PictureSize(64, None, "bilinear")),
        "resnet": lambda: (t.ResNetModel(t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])),
                           t.ConvNextImageProcessor(size={"shortest_edge": 64}), PictureSize(73, 64, "bicubic")),
        "videomae": lambda: (t.VideoMAEModel(t.VideoMAEConfig(**VISION, num_frames=4)),
                             t.VideoMAEImageProcessor(**CUT), PictureSize(72, 64, "bilinear")),
    }  # fmt: skip
    torch.manual_seed(0)
    network, processor, size = makers[kind]()
    return network.eval(), processor, size


def _pooled(kind: str, network, inputs: torch.Tensor) -> torch.Tensor:
    """What the class says is pooled, in the model's own words."""
    if kind == "clip":
        return network.visual_projection(network.vision_model(pixel_values=inputs).pooler_output)
    if kind == "siglip":
        return network.vision_model(pixel_values=inputs).pooler_output
    output = network(pixel_values=inputs)
    if kind in ("vit", "videomae"):
        return output.last_hidden_state.mean(1)
    if kind == "resnet":
        return output.last_hidden_state.mean((2, 3))
    return output.last_hidden_state[:, 0]  # the class token, after the last norm


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2", "dinov3", "vit", "resnet", "videomae"])
def test_a_model_of_transformers_is_read_from_its_folder_with_its_processor(kind, tmp_path, pictures):
    pytest.importorskip("torchvision", reason="needs torchvision")
    network, processor, size = _model(kind)
    network.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    video = kind == "videomae"
    encoder = make_encoder(f"transformers:{tmp_path}", rate=1)
    assert encoder.size == size and (encoder.frames, encoder.frame_rate) == ((4, 4.0) if video else (1, None))
    sides = (64, 64) if size.crop else (64, 96)
    x = noise(2, 4, *sides) if video else torch.stack([decoded(each, size)[0] for each in pictures])
    own = dict(zip(("do_resize", "do_center_crop"), (False, False), strict=True)) if size.crop else {}
    planes = [each for clip in x for each in clip] if video else list(x)
    inputs = processor([each.permute(2, 0, 1) for each in planes], return_tensors="pt", **own)["pixel_values"]
    inputs = inputs.reshape(2, 4, 3, 64, 64) if video else inputs
    torch.testing.assert_close(encoder.pixels(x), inputs, rtol=0, atol=0.02)  # half a level where it is squashed
    with torch.inference_mode():
        expected = _pooled(kind, network, encoder.pixels(x))
    torch.testing.assert_close(encoder.rows(x), expected, rtol=1e-4, atol=1e-5)
    assert encoder.width == expected.shape[1] and encoder.rows(x).std(dim=0).max() > 0


def test_a_pooler_without_weights_is_not_used(tmp_path):
    import transformers as t

    network, processor, _ = _model("vit")
    network.save_pretrained(tmp_path)  # it has no pooler, and AutoModel makes one of random weights
    processor.save_pretrained(tmp_path)
    one, two = (make_encoder(f"transformers:{tmp_path}").rows(noise(1, 64, 64)) for _ in range(2))
    assert torch.equal(one, two)
    whole = t.ViTModel(t.ViTConfig(**VISION)).eval()
    whole.save_pretrained(tmp_path)
    encoder = make_encoder(f"transformers:{tmp_path}")
    with torch.inference_mode():
        expected = whole(pixel_values=encoder.pixels(noise(1, 64, 64))).pooler_output
    torch.testing.assert_close(encoder.rows(noise(1, 64, 64)), expected)
