"""Odd and broken input through the whole stack: each gets a clear status that names the field, or a picture."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from dpst.v1 import image_pb2, labels_pb2, params_pb2, photo_style_pb2
from dpst.v1.photo_style_pb2_grpc import PhotoStyleStub
from google.rpc import error_details_pb2, status_pb2
from PIL import Image

from gateway.stack import local_stack

PARAMS = params_pb2.TransferParams(solve_edge_px=64, max_evaluations=1)


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PhotoStyleStub]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DPST_MODELS_DIR", raising=False)
        with (
            local_stack(tmp_path_factory.mktemp("logs"), every={"device": "cpu"}) as stack,
            grpc.insecure_channel(stack.addresses["gateway"].grpc) as channel,
        ):
            yield PhotoStyleStub(channel)


def pixels(width: int = 96, height: int = 72) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def declared_png(width: int, height: int) -> bytes:
    """A PNG whose header declares a size that its data never gives."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def label_png(width: int, height: int, *colours: tuple[int, int, int]) -> bytes:
    image = Image.new("RGB", (width, height), colours[0])
    for index, colour in enumerate(colours):
        image.paste(colour, (index * width // len(colours), 0, width, height))
    return encoded(image)


def call(stub: PhotoStyleStub, **fields: object) -> photo_style_pb2.TransferResponse:
    images = {
        "content": image_pb2.Image(data=encoded(pixels())),
        "style": image_pb2.Image(data=encoded(pixels(80, 80))),
    }
    transfer = photo_style_pb2.Transfer(**{**images, "params": PARAMS, **fields})  # type: ignore[arg-type]
    return stub.Transfer(photo_style_pb2.TransferRequest(transfer=transfer), timeout=60)


def violation(error: grpc.Call) -> error_details_pb2.BadRequest.FieldViolation:
    details = next(value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin")
    bad_request = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(details).details[0].Unpack(bad_request)
    return bad_request.field_violations[0]


GOOD = {
    "palette": encoded(pixels().quantize(16)),
    "one bit": encoded(pixels().convert("1")),
    "greyscale": encoded(pixels().convert("L"), "JPEG"),
    "greyscale and alpha": encoded(pixels().convert("LA")),
    "CMYK": encoded(pixels().convert("CMYK"), "JPEG"),
    "alpha": encoded(pixels().convert("RGBA")),
    "WebP": encoded(pixels(), "WEBP"),
    "TIFF": encoded(pixels(), "TIFF"),
    "very wide": encoded(pixels(1200, 40)),
    "smallest": encoded(pixels(32, 32)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", GOOD)
def test_odd_photos_work_on_both_sides(stub: PhotoStyleStub, kind: str) -> None:
    with Image.open(io.BytesIO(GOOD[kind])) as photo:
        size = photo.size
        alpha = photo.mode in ("LA", "RGBA")
    reply = call(stub, content=image_pb2.Image(data=GOOD[kind]), style=image_pb2.Image(data=GOOD[kind]))
    with Image.open(io.BytesIO(reply.picture)) as result:
        assert result.size == size
        assert result.mode in (("RGBA", "LA") if alpha else ("RGB", "CMYK", "L"))


BAD = {
    "not an image": (b"this is no picture", "no known image"),
    "empty": (b"", ""),
    "truncated PNG": (encoded(pixels())[:-900], "damaged"),
    "truncated JPEG": (encoded(pixels(), "JPEG")[:500], "damaged"),
    "1x1": (encoded(pixels(1, 1)), "1x1"),
    "20000x20000 declared": (declared_png(20000, 20000), "20000x20000"),
    "GIF": (encoded(pixels(), "GIF"), "GIF"),
    "too wide": (encoded(pixels(1600, 40)), "1600x40"),
}


@pytest.mark.slow
@pytest.mark.parametrize("field", ["content", "style"])
@pytest.mark.parametrize("kind", BAD)
def test_broken_photos_are_named(stub: PhotoStyleStub, kind: str, field: str) -> None:
    data, text = BAD[kind]
    with pytest.raises(grpc.RpcError) as caught:
        call(stub, **{field: image_pb2.Image(data=data)})
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violation(caught.value).field.split(".")[0] == field
    assert text in violation(caught.value).description


@pytest.mark.slow
@pytest.mark.parametrize("field", ["content_labels", "style_labels"])
@pytest.mark.parametrize(
    ("png", "text"),
    [
        (label_png(64, 64, (0, 0, 255))[:-40], ""),
        (label_png(96, 20, (0, 0, 255)), "96x20"),
        (label_png(96, 72, (0, 0, 255), (120, 60, 200)), "7"),
        (encoded(pixels(), "JPEG"), "PNG"),
    ],
    ids=["truncated", "wrong size", "unknown colour", "a JPEG"],
)
def test_broken_label_maps_are_named(stub: PhotoStyleStub, field: str, png: bytes, text: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(stub, **{field: labels_pb2.LabelMap(png=png)})
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violation(caught.value).field.startswith(field)
    assert text in violation(caught.value).description


@pytest.mark.slow
def test_a_label_that_only_one_side_has_follows_the_policy(stub: PhotoStyleStub) -> None:
    blue, green, red = (0, 0, 255), (0, 255, 0), (255, 0, 0)
    maps = {
        "content_labels": labels_pb2.LabelMap(png=label_png(96, 72, blue, green)),
        "style_labels": labels_pb2.LabelMap(png=label_png(80, 80, blue, red)),
    }
    kinds = {m.content_label: m.kind for m in call(stub, **maps).report.label_matches}
    assert kinds == {"blue": labels_pb2.MATCH_KIND_SAME, "green": labels_pb2.MATCH_KIND_GLOBAL}
    strict = params_pb2.TransferParams(label_policy=labels_pb2.LABEL_POLICY_REJECT)
    strict.MergeFrom(PARAMS)
    with pytest.raises(grpc.RpcError) as caught:
        call(stub, params=strict, **maps)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "green" in caught.value.details()


@pytest.mark.slow
def test_a_parameter_out_of_range_and_an_unknown_model_are_named(stub: PhotoStyleStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(stub, params=params_pb2.TransferParams(solve_edge_px=5000))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violation(caught.value).field == "params.solve_edge_px"
    assert "1024" in violation(caught.value).description
    for fields in ({"segmentation_model": "nobody"}, {"params": params_pb2.TransferParams(features="nobody")}):
        with pytest.raises(grpc.RpcError) as caught:
            call(stub, **fields)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "nobody" in caught.value.details()
