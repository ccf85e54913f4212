"""What a Bento's bento.yaml names as its service: the `pawprint` beside this file is what serves.

BentoML tries `bentoml serve pawprint:TAG` as an import first. Where pawprint is installed too, as in a checkout's
environment, that package is loaded by now, and its modules would serve the checkout's champion in the Bento's name.
"""

from pathlib import Path

import pawprint

pawprint.__path__.insert(0, str(Path(__file__).with_name("pawprint")))

from pawprint.serving.service import Pawprint  # noqa: E402, F401
