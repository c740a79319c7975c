"""Compiles the frame path into the wheel, with mypyc. An editable install is as the source."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULE = "wsflow/transports/frames.py"


class CompiledFrames(BuildHookInterface[Any]):
    """Where there is no C compiler, or with ``WSFLOW_PURE=1``, the wheel is pure Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "standard" or os.environ.get("WSFLOW_PURE"):
            return
        from setuptools.errors import CCompilerError, ExecError, PlatformError

        try:
            modules = self._compiled()
        except (CCompilerError, ExecError, PlatformError) as exc:
            self.app.display_warning(f"{MODULE} is not compiled, the wheel is pure Python: {exc}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for each in modules:
            build_data["force_include"][str(each)] = f"{Path(MODULE).parent}/{each.name}"

    def _compiled(self) -> list[Path]:
        from mypyc.build import mypycify
        from setuptools import Distribution
        from setuptools.command.build_ext import build_ext

        self._folder = tempfile.TemporaryDirectory(prefix="wsflow-")
        built, before = Path(self._folder.name), Path.cwd()
        os.chdir(self.root)  # the compiler finds the module's name from here
        try:
            arguments = [
                "--config-file=",
                "--follow-imports=skip",
                "--ignore-missing-imports",
                f"--cache-dir={built / 'mypy'}",
            ]
            modules = mypycify([*arguments, MODULE], opt_level="3", target_dir=str(built))
            command = build_ext(Distribution({"name": "wsflow", "ext_modules": modules}))
            command.build_lib, command.build_temp = str(built / "lib"), str(built / "temp")
            command.ensure_finalized()
            command.run()
        finally:
            os.chdir(before)
        return [each for each in (built / "lib").rglob("frames*") if each.is_file()]

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if folder := getattr(self, "_folder", None):
            folder.cleanup()
