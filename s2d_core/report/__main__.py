"""``python -m s2d_core.report FOLDER [PICTURE ...]``: draw a report's pictures again, from the numbers beside them."""

import argparse
import json
import sys
from pathlib import Path

from s2d_core.report.pictures import draw_all
from s2d_core.report.pictures.draw import PICTURES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m s2d_core.report", description="Draw a report's pictures again.")
    parser.add_argument("folder", type=Path, help="folder with report.json and curves.json, e.g. runs/latest")
    parser.add_argument("pictures", nargs="*", metavar="picture", help=f"default: all of {', '.join(PICTURES)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.pictures) - PICTURES.keys():
        parser.error(f"no picture {', '.join(sorted(unknown))}; there are {', '.join(PICTURES)}")
    try:
        data, curves = (json.loads((arguments.folder / name).read_text()) for name in ("report.json", "curves.json"))
    except FileNotFoundError as error:
        parser.error(f"{error.filename}: no such file; FOLDER is one that a run printed as its report's")
    for picture in draw_all(data, curves, arguments.folder, arguments.pictures or PICTURES):
        print(picture.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
