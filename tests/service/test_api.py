"""Every endpoint but /predict, over a real socket: batch, explain, feedback, model card, OpenAPI, metrics."""

import base64
import io

import httpx
import numpy as np
import pytest
from PIL import Image

from pawprint.inference.classifier import ModelInfo
from pawprint.serving.schema import Explanation, ModelCard, Prediction


def test_a_batch_keeps_its_order_and_each_its_own_error(service: str, pictures: dict[str, bytes]) -> None:
    sent = [("red.jpg", pictures["red"]), ("notes.txt", b"hello"), ("b.jpg", pictures["blue"]), ("none.jpg", b"")]
    response = httpx.post(f"{service}/predict/batch", files=[("image", file) for file in sent])
    assert response.status_code == 200, response.text
    answers = response.json()["answers"]
    assert [answer["filename"] for answer in answers] == [name for name, _ in sent]
    assert [answer["prediction"] and answer["prediction"]["label"] for answer in answers] == [
        "red", None, "blue", None,
    ]  # fmt: skip
    assert [answer["problem"] and answer["problem"]["reason"] for answer in answers] == [
        None, "not_an_image", None, "empty",
    ]  # fmt: skip


def test_a_batch_of_too_many_or_of_none(service: str) -> None:
    many = [("image", ("x.jpg", b"x"))] * 65
    assert httpx.post(f"{service}/predict/batch", files=many).json()["reason"] == "too_many_images"
    assert httpx.post(f"{service}/predict/batch", content=b"x").status_code == 415
    assert httpx.post(f"{service}/predict/batch", files={"other": b"x"}).status_code == 400


def test_an_explanation_is_a_picture_of_the_same_size(service: str, pictures: dict[str, bytes]) -> None:
    explanation = Explanation.model_validate(httpx.post(f"{service}/explain", content=pictures["red"]).json())
    assert explanation.prediction.label == "red"
    head, _, data = explanation.overlay.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as overlay:
        assert (overlay.format, overlay.size) == ("PNG", (300, 300))


def test_the_heat_lies_where_the_class_is(service: str) -> None:
    """Half red, half blue: what says `red` is the red half, so the heat must change that half more."""
    halves = np.zeros((300, 300, 3), np.uint8)
    halves[:, :160], halves[:, 160:] = (220, 40, 40), (40, 40, 220)
    buffer = io.BytesIO()
    Image.fromarray(halves).save(buffer, "PNG")
    response = httpx.post(f"{service}/explain", content=buffer.getvalue(), headers={"Accept": "image/png"})
    assert response.headers["Content-Type"] == "image/png"
    with Image.open(io.BytesIO(response.content)) as overlay:
        seen = np.asarray(overlay.convert("RGB"), int)
    hot, cold = (0.5 * halves + 0.5 * np.array(end) for end in ((122, 4, 3), (48, 18, 59)))  # turbo's two ends
    assert np.abs(seen - hot)[:, 20:120].mean() < 5
    assert np.abs(seen - cold)[:, 200:280].mean() < 5


def test_feedback_is_joined_to_its_answer(service: str, pictures: dict[str, bytes]) -> None:
    answer = httpx.post(f"{service}/predict", content=pictures["red"]).json()
    for label in ("blue", "unknown", ""):  # the last word counts, the empty one takes it back
        response = httpx.post(f"{service}/feedback", json={"id": answer["id"], "label": label})
        assert (response.status_code, response.json()) == (200, {"id": answer["id"], "label": label})


@pytest.mark.parametrize(
    "body, status, reason",
    [
        (b"{", 422, "bad_feedback"),
        (b"[]", 422, "bad_feedback"),
        (b'{"id": "x"}', 422, "bad_feedback"),
        (b'{"id": "x", "label": "red", "more": 1}', 422, "bad_feedback"),
        (b'{"id": "x", "label": "purple"}', 422, "unknown_label"),
        (b'{"id": "x", "label": "red"}', 404, "unknown_id"),
        (b'{"id": "' + b"x" * 5000 + b'"}', 413, "body_too_large"),
    ],
)
def test_bad_feedback_is_refused(service: str, body: bytes, status: int, reason: str) -> None:
    response = httpx.post(f"{service}/feedback", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["reason"]) == (status, reason)


def test_the_model_card(service: str, toy_model) -> None:
    card = ModelCard.model_validate(httpx.get(f"{service}/model").json())
    assert card.classes == ["blue", "red"]
    assert card.model.digest == ModelInfo.read(toy_model).model_digest
    assert card.precision in ("bf16", "f32")
    assert card.lineage.git_commit == "c" * 40


def test_openapi_describes_what_is_answered(service: str, pictures: dict[str, bytes]) -> None:
    document = httpx.get(f"{service}/docs.json").json()
    assert document["openapi"].startswith("3.1")
    assert {"/predict", "/predict/batch", "/explain", "/feedback", "/model", "/model/about", "/metrics"} <= set(
        document["paths"]
    )
    assert set(document["components"]["schemas"]["Prediction"]["properties"]) == set(Prediction.model_fields)
    for path, item in document["paths"].items():
        for method, operation in item.items():
            status = httpx.request(method.upper(), f"{service}{path}").status_code
            assert str(status) in operation["responses"], (method, path, status)


def test_metrics_count_answers_and_refusals(service: str, pictures: dict[str, bytes]) -> None:
    httpx.post(f"{service}/predict", content=pictures["red"])
    httpx.post(f"{service}/predict", content=b"not a photograph")
    text = httpx.get(f"{service}/metrics").text
    for needle in (
        'pawprint_answers_total{label="red"}',
        'pawprint_refusals_total{reason="not_an_image"}',
        'pawprint_part_seconds_bucket{le="0.001",part="decode"}',
        "pawprint_confidence_count",
        'pawprint_model_info{digest="',
    ):
        assert needle in text


def test_every_answer_has_the_security_headers(service: str) -> None:
    for path in ("/", "/model", "/nothing", "/livez"):
        headers = httpx.get(f"{service}{path}").headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
    assert httpx.get(f"{service}/page/").status_code == 404  # no listing


@pytest.mark.parametrize("path", ["/predict", "/explain", "/feedback", "/model"])
def test_pickle_is_only_bytes_here(service: str, path: str) -> None:
    headers = {"Content-Type": "application/vnd.bentoml+pickle"}
    response = httpx.post(f"{service}{path}", content=b"cos\nsystem\n(S'false'\ntR.", headers=headers)
    assert 400 <= response.status_code < 500
