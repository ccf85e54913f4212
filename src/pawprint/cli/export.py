"""`pawprint export`: a model in a form that runs without pawprint."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pawprint.cli.common import ROOT, examples
from pawprint.errors import PawprintError

MOST = 12  # test pictures


@examples("pawprint export champion --to web page/ | pawprint export efficientnet_lite0 --to onnx out/ --pictures new/")
def export(
    model: Annotated[str, typer.Argument(help="`champion`, a candidate, or a model folder")],
    out: Annotated[Path, typer.Argument(help="the folder to write; it must not be there")],
    to: Annotated[
        Literal["onnx", "openvino", "web"],
        typer.Option(help="ONNX Runtime, OpenVINO, or a page that runs in a browser"),
    ] = "onnx",
    pictures: Annotated[
        list[Path] | None,
        typer.Option(help="test pictures that travel along; without: photographs that the model has not learned from"),
    ] = None,
    runtime: Annotated[
        Path | None, typer.Option(help="for `web`: onnxruntime-web's package file, where npm is not")
    ] = None,
) -> None:
    """Write a model with its decoding, resizing and refusals as a folder that needs no pawprint, and check it.

    The check runs the export on its test pictures. Exit code 1 where a label is another one or a probability differs by
    more than 0.01.
    """
    from pawprint.inference import portable
    from pawprint.inference.classifier import find_model

    folder = find_model(model, ROOT)
    chosen = portable.test_pictures(folder, ROOT / "data", pictures or [], MOST)
    report = portable.export(folder, to, out, chosen, runtime)
    if report is None:
        page = out / "index.html"
        print(f"{out}: written and not checked, for there is no Chromium here. Open {page} and press `Check`.")
        return
    text = (
        f"{report.pictures} pictures: {len(report.different)} with another label, probabilities differ by at most "
        f"{report.difference:.2g}; one takes {report.milliseconds:.3g} ms here (median)"
    )
    if report.different or report.difference > portable.TOLERANCE:
        names = f" ({', '.join(report.different)})" if report.different else ""
        raise PawprintError(f"{out} does not answer as the model does. {text}{names}. Do not use it.")
    print(f"{out}: {text}.")
