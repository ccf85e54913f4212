"""POST /predict over a real socket."""

import httpx
import numpy as np
import pytest

from pawprint import image
from pawprint.inference.classifier import Classifier, ModelInfo


def test_a_picture_as_a_form_field(service: str, pictures: dict[str, bytes], toy_model) -> None:
    response = httpx.post(f"{service}/predict", files={"image": ("x.jpg", pictures["red"], "image/jpeg")})
    assert response.status_code == 200, response.text
    answer = response.json()
    info = ModelInfo.read(toy_model)
    assert answer["label"] == "red"
    assert list(answer["probabilities"]) == list(info.classes)
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert answer["model"] == {
        "name": "pawprint-colours",
        "version": "3",
        "digest": ModelInfo.read(toy_model).model_digest,
        "bento": "",
        "dataset": info.lineage.dataset,
        "data_hash": info.lineage.data_hash,
        "git_commit": info.lineage.git_commit,
        "run_id": info.lineage.run_id,
    }
    assert set(answer["milliseconds"]) == {"decode", "wait", "inference"}
    assert answer["model"]["digest"] in response.headers["X-Pawprint-Model"]
    assert response.headers["X-Pawprint-Bento"] == "none"


@pytest.mark.parametrize("kind", ["image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded"])
def test_a_picture_as_the_whole_body(service: str, pictures: dict[str, bytes], kind: str) -> None:
    response = httpx.post(f"{service}/predict", content=pictures["blue"], headers={"Content-Type": kind})
    assert (response.status_code, response.json()["label"]) == (200, "blue")


def test_unknown_is_explained(service: str, pictures: dict[str, bytes]) -> None:
    answer = httpx.post(f"{service}/predict", content=pictures["green"]).json()
    assert (answer["label"], answer["refusal"]) == ("unknown", "unlike")
    assert "training photographs" in answer["reason"]


def test_every_answer_has_its_own_id(service: str, pictures: dict[str, bytes]) -> None:
    ids = {httpx.post(f"{service}/predict", content=pictures["red"]).json()["id"] for _ in range(3)}
    assert len(ids) == 3


def test_the_model_sees_what_training_saw(service: str, toy_model) -> None:
    """The numbers of a picture sent over HTTP are those of the packed photograph that preprocess would store."""
    rng = np.random.default_rng(7)
    photograph = image.encode(rng.integers(0, 255, (517, 611, 3), dtype=np.uint8))
    shard = image.pack(photograph, "squash", 95)
    expected = Classifier(toy_model).predict(image.unpack(shard)[None]).probabilities[0]
    answer = httpx.post(f"{service}/predict", content=photograph).json()
    assert list(answer["probabilities"].values()) == [float(value) for value in expected]


def test_the_engine_hands_the_model_the_tensor_of_image_load(toy_model, pictures: dict[str, bytes]) -> None:
    classifier = Classifier(toy_model)
    for data in pictures.values():
        np.testing.assert_array_equal(classifier.read(data), image.load(data))
        np.testing.assert_array_equal(classifier.read(data), image.unpack(image.pack(data)))


def send(service: str, **request) -> tuple[int, str, str]:
    response = httpx.post(f"{service}/predict", **request)
    problem = response.json()
    assert set(problem) == {"reason", "error"}
    return response.status_code, problem["reason"], problem["error"]


def test_not_a_picture(service: str) -> None:
    status, reason, error = send(service, files={"image": ("cat.jpg", b"meow", "image/jpeg")})
    assert (status, reason) == (415, "not_an_image")
    assert "not a photograph" in error


def test_an_empty_file_and_an_empty_body(service: str) -> None:
    assert send(service, files={"image": ("cat.jpg", b"", "image/jpeg")})[:2] == (400, "empty")
    assert send(service, content=b"")[:2] == (400, "empty")


def test_a_truncated_picture(service: str, pictures: dict[str, bytes]) -> None:
    assert send(service, content=pictures["red"][:2000])[:2] == (422, "truncated")


def test_a_wrong_field_is_named(service: str, pictures: dict[str, bytes]) -> None:
    status, reason, error = send(service, files={"picture": ("x.jpg", pictures["red"], "image/jpeg")})
    assert (status, reason) == (400, "no_image")
    assert "picture" in error


def test_text_in_the_field_and_several_pictures(service: str, pictures: dict[str, bytes]) -> None:
    form = {"content": b"--b\r\nContent-Disposition: form-data; name=image\r\n\r\nhello\r\n--b--\r\n"}
    assert send(service, headers={"Content-Type": "multipart/form-data; boundary=b"}, **form)[:2] == (400, "no_image")
    two = [("image", ("x.jpg", pictures["red"], "image/jpeg"))] * 2
    assert send(service, files=two)[:2] == (400, "several_images")


def test_a_broken_form(service: str) -> None:
    for boundary in ("", "; boundary=b"):
        status, reason, _ = send(
            service, content=b"\x00\x01broken", headers={"Content-Type": f"multipart/form-data{boundary}"}
        )
        assert (status, reason) in {(400, "bad_form"), (400, "no_image")}


def test_another_method_and_another_path(service: str) -> None:
    assert httpx.get(f"{service}/predict").status_code == 405
    assert httpx.get(f"{service}/nothing").status_code == 404
