"""The BentoML service `pawprint`.

bentoml serve                     # in the project's root: serves champion/
bentoml serve pawprint:latest     # the Bento that was built last
curl -F image=@cat.jpg http://localhost:3000/predict
"""

import bentoml
from bentoml.exceptions import BentoMLException

from pawprint.errors import PawprintError
from pawprint.runtime import verify
from pawprint.serving.app import Engine, app
from pawprint.serving.champion import model_folder, serving_params


@bentoml.service(name="pawprint", workers=1)
@bentoml.asgi_app(app)
class Pawprint:
    """Tells the classes of the model that it was built with apart, and says where each answer comes from."""

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def check() -> None:  # BentoML calls it once, before any worker, without an instance
        """Refuse to start, in one sentence, where there is nothing to serve or it is damaged."""
        try:
            verify(model_folder())
            serving_params()
        except PawprintError as error:
            raise BentoMLException(str(error)) from None

    def __init__(self) -> None:
        version = bentoml.server_context.bento_version
        bento = "" if version == "not available" else f"{bentoml.server_context.bento_name}:{version}"
        app.state.engine = Engine(model_folder(), bento, serving_params())

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Finish what was accepted."""
        app.state.engine.close()
