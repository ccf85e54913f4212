"""A wheel carries the files that `pawprint init` makes a project of, copied from the top of this repository."""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

TOP = Path(__file__).resolve().parent
sys.path.insert(0, str(TOP / "src"))

from pawprint import project  # noqa: E402


class BuildWithProject(build_py):
    """The package, and the project's files in it."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if self.editable_mode:
            return
        for name, path in project.files(project.PARTS + project.SAMPLE, TOP):
            target = Path(self.build_lib, "pawprint", "project", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(path.stat().st_mode)


setup(cmdclass={"build_py": BuildWithProject})
