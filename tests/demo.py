"""The demo: a midday photo gets the light of nightfall, by the installed command, with nothing downloaded.

    python -m tests.demo build/demo

Both photos ship inside packages of the ``demo`` extra. Without DPST_MODELS_DIR the built-in models are used.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

_PANEL_HEIGHT_PX = 400


@dataclass(frozen=True)
class Sample:
    """A photo inside an installed package, with what its licence asks to be said."""

    package: str
    path: str
    credit: str

    @property
    def file(self) -> Path | None:
        """Where it lies; None if the package is not installed."""
        spec = importlib.util.find_spec(self.package)  # finds the package without importing it
        return None if spec is None or spec.origin is None else Path(spec.origin).parent / self.path

    def needed(self) -> Path:
        """Where it lies; ends the process if the package is not installed."""
        if self.file is None:
            sys.exit(f"the demo needs the package {self.package}: pip install '.[cpu,demo]'")
        return self.file

    def copy_to(self, folder: Path, name: str) -> Path:
        """Copy it; ends the process if the package is not installed."""
        source = self.needed()
        return Path(shutil.copyfile(source, folder / f"{name}{source.suffix}"))


CONTENT = Sample("sklearn", "datasets/images/china.jpg", "danielbuechele on Flickr, CC BY 2.0, from scikit-learn")
STYLE = Sample("skimage", "data/rocket.jpg", "SpaceX, public domain, from scikit-image")


def main() -> int:
    """Run the demo; return the command's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where photos, result and report go")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    content, style = CONTENT.copy_to(folder, "content"), STYLE.copy_to(folder, "style")
    result, report_file = folder / "result.jpg", folder / "report.json"
    for stale in (result, report_file, folder / "before_after.jpg"):
        stale.unlink(missing_ok=True)  # a failure must not leave the picture of an earlier run

    command = ["dpst", "stylize", str(content), str(style), "-o", str(result), "--report", str(report_file)]
    print(f"$ {' '.join(command)}", flush=True)
    executable = str(Path(sys.executable).parent / "dpst")
    status = subprocess.run([executable, *command[1:]], env=_environment(), check=False).returncode
    if status != 0:
        print(f"the demo failed: dpst ended with exit status {status}", file=sys.stderr)
        return status
    _side_by_side([content, style, result]).save(folder / "before_after.jpg", quality=90)
    _explain(json.loads(report_file.read_text(encoding="utf-8")), folder)
    return 0


def _environment() -> dict[str, str]:
    """This environment; of dpst's settings only DPST_MODELS_DIR, so that the demo is the same everywhere.

    Models that the user pulled take part only if that names their folder.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DPST_")}
    models = os.environ.get("DPST_MODELS_DIR")
    built_in = {"DPST_FEATURES_MODEL": "builtin", "DPST_SEGMENTATION_MODEL": "builtin"}
    return kept | ({"DPST_MODELS_DIR": models} if models else built_in)


def _side_by_side(files: list[Path]) -> Image.Image:
    panels = []
    for file in files:
        with Image.open(file) as photo:
            width = round(photo.width * _PANEL_HEIGHT_PX / photo.height)
            panels.append(photo.convert("RGB").resize((width, _PANEL_HEIGHT_PX), Image.Resampling.LANCZOS))
    sheet = Image.new("RGB", (sum(panel.width for panel in panels), _PANEL_HEIGHT_PX))
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, 0))
        left += panel.width
    return sheet


def _explain(report: dict[str, Any], folder: Path) -> None:
    quality, seconds = report["quality"], {each["stage"]: each["seconds"] for each in report["stages"]}
    matches = [f"{match['content_label']} from {match['style_label'] or '-'}" for match in report["label_matches"]]
    lines = [
        "",
        f"content photo   {CONTENT.credit}",
        f"style photo     {STYLE.credit}",
        f"features        {_model(report['features_model'])}",
        f"regions         {_model(report['content_segmentation_model'])}",
        f"                {', '.join(matches)}",
        f"solve           {report['evaluations']} evaluations in {seconds['STAGE_SOLVE']:.1f} s,"
        f" stopped by {report['stopped_by']}; {seconds['STAGE_END_TO_END']:.1f} s from request to picture",
        f"style distance  {quality['style_relative']:.3f} of the untouched photo's, by these features",
        f"affine residual {quality['affine_per_pixel_e6']:.1f}e-6 per pixel (0 = locally affine everywhere)",
        f"same edges      {quality['edges']:.3f} (1 = all of them)",
        f"clipped         {quality['clipped_share']:.1%} of channel values",
        "",
        f"result          {folder / 'result.jpg'}",
        f"side by side    {folder / 'before_after.jpg'}  (content, style, result)",
        f"everything else {folder / 'report.json'}",
    ]
    print("\n".join(lines))
    if report["features_model"]["built_in"]:
        print(
            "\nBuilt-in models were used: a slim network distilled from VGG-19, and a slim one for labels.\n"
            "Set DPST_MODELS_DIR to a folder of full networks for better transfers."
        )


def _model(model: dict[str, Any]) -> str:
    origin = "built in" if model["built_in"] else f"from {os.environ.get('DPST_MODELS_DIR')}"
    return f"{model['name']}/{model['version']} on {model['device']}, {origin}"


if __name__ == "__main__":
    sys.exit(main())
