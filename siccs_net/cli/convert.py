"""siccs_convert: SICCS, a Decathlon task, or two folders of pairs become a dataset in nnU-Net's layout."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from siccs_net.cli.options import add_workers, new_parser
from siccs_net.cli.process import Run

if TYPE_CHECKING:
    from siccs_net.interop.draft import Draft
    from siccs_net.pipeline.convert import Conversion

logger = logging.getLogger(__name__)


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = new_parser(
        "convert",
        "Make a dataset in nnU-Net's layout from other people's files. Everything is checked before anything is "
        "written.\nsiccs_convert siccs --help, msd --help and pairs --help list the options of each.",
        example="siccs_convert siccs -i siccs_download --manifest manifest.csv -d 501",
    )
    sources = parser.add_subparsers(dest="source", metavar="siccs|msd|pairs", required=True)
    _add_siccs(sources)
    _add_msd(sources)
    _add_pairs(sources)
    return parser


def _add_siccs(sources: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_source(
        sources,
        "siccs",
        "the SICCS dataset, by a manifest",
        "SICCS, by a manifest: a CSV table with the columns case, image, label and, if known, patient, date, "
        "thickness_mm, fev1_fvc, fev1_pp, fvc_pp, dlco_pp. Labels: 0 background, 1 normal lung, 2 EF, 3 GGO.",
        example="siccs_convert siccs -i siccs_download --manifest manifest.csv -d 501",
    )
    parser.add_argument("-i", "--input", metavar="FOLDER", type=Path, required=True, help="the dataset's folder")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--manifest", metavar="FILE", type=Path, help="the table of cases; paths are below FOLDER")
    way.add_argument(
        "--write-manifest",
        metavar="FILE",
        type=Path,
        help="write a first manifest from the names of the files below FOLDER, and nothing else",
    )
    _add_output(parser, "number or DatasetXXX_Name (a number becomes DatasetXXX_SICCS)")


def _add_msd(sources: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_source(
        sources,
        "msd",
        "a Decathlon task",
        "A task of the Medical Segmentation Decathlon (TaskXX_Name with dataset.json). A file of several channels is "
        "taken apart into one a channel.",
        example="siccs_convert msd -i Task06_Lung -d 506",
    )
    parser.add_argument("-i", "--input", metavar="FOLDER", type=Path, required=True, help="the task's folder")
    _add_output(parser, "number or DatasetXXX_Name (default: the task's own)")


def _add_pairs(sources: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_source(
        sources,
        "pairs",
        "folders of images and labels",
        "A folder of images and a folder of labels, matched by name: endings such as _0000, _image, _ct, _label, _seg, "
        "_mask are passed over.",
        example="siccs_convert pairs -i scans -l masks -d Dataset502_Lesions --labels lesion=1",
    )
    parser.add_argument("-i", "--images", metavar="IMAGES", type=Path, required=True, help="folder of images")
    parser.add_argument("-l", "--label-maps", metavar="LABELS", type=Path, required=True, help="folder of label maps")
    parser.add_argument(
        "--labels",
        metavar="NAME=VALUE",
        nargs="+",
        help="what the values mean (default: those found are called label_1 and so on)",
    )
    parser.add_argument("--channel", metavar="NAME", default="CT", help="what the images are (default: CT, in HU)")
    _add_output(parser, "DatasetXXX_Name")


def _add_source(
    sources: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    description: str,
    *,
    example: str,
) -> argparse.ArgumentParser:
    """Add a source with the options of every command, which may stand before its name too."""
    common = new_parser(f"convert {name}", description, example=example)
    for action in common._actions:
        action.default = argparse.SUPPRESS
    return sources.add_parser(
        name,
        parents=[common],
        add_help=False,
        help=summary,
        description=description,
        epilog=common.epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_output(parser: argparse.ArgumentParser, dataset: str) -> None:
    parser.add_argument("-d", "--dataset", metavar="ID", help=dataset)
    parser.add_argument(
        "-o", "--output", metavar="RAW", type=Path, help="folder to make it in (default: the workspace's raw folder)"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--copy", action="store_true", help="copy the files (the default)")
    how.add_argument(
        "--link",
        action="store_true",
        help="make hard links of .nii.gz files, which need no room; other files are written anew",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset, or a file, that is there")
    parser.add_argument("--skip-bad", action="store_true", help="leave out cases with errors; the exit code is 4 still")
    add_workers(parser)


def run(run: Run) -> int:
    """Convert and print every problem; exit code 4 when there is an error."""
    from siccs_net.pipeline.convert import convert, dataset_folder
    from siccs_net.workspace import Workspace

    args = run.args
    if args.source == "siccs" and args.write_manifest is not None:
        return _write_manifest(run)
    workspace = Workspace.resolve(args.workspace)
    logger.info("%s", workspace.describe())
    number, name = _default_name(args)
    folder = dataset_folder(workspace, args.dataset or number, root=args.output, name=name)
    result = convert(
        _draft(args),
        folder,
        link=args.link,
        overwrite=args.overwrite,
        skip_bad=args.skip_bad,
        workers=args.workers,
        show_progress=run.show_progress,
    )
    return _finish(run, result)


def _default_name(args: argparse.Namespace) -> tuple[str | None, str | None]:
    """Return the number and the name that a dataset gets when -d does not say."""
    if args.source == "siccs":
        return None, "SICCS"
    if args.source == "pairs":
        return None, None
    from siccs_net.interop.decathlon import task_name

    number, name = task_name(args.input)
    return None if number is None else str(number), name


def _draft(args: argparse.Namespace) -> Draft:
    if args.source == "siccs":
        from siccs_net.interop.siccs import draft_siccs

        return draft_siccs(args.input, args.manifest)
    if args.source == "msd":
        from siccs_net.interop.decathlon import draft_decathlon

        return draft_decathlon(args.input)
    from siccs_net.interop.pairs import draft_pairs, parse_labels

    names = None if args.labels is None else parse_labels(args.labels)
    return draft_pairs(args.images, args.label_maps, channel=args.channel, names=names)


def _write_manifest(run: Run) -> int:
    from siccs_net.interop.siccs import draft_manifest
    from siccs_net.interop.writer import write_file

    args = run.args
    text, matching = draft_manifest(args.input)
    written = write_file(args.write_manifest, text, overwrite=args.overwrite)
    for kind, paths in (("image without label", matching.images), ("label without image", matching.labels)):
        for path in paths:
            run.say(f"left out  {kind:<22} {path}")
    for case, paths in matching.ambiguous.items():
        run.say(f"left out  {'ambiguous name':<22} {case}: {', '.join(map(str, paths))}")
    run.outputs[str(written.path)] = written.sha256
    run.results = {"pairs": len(matching.pairs)}
    run.say(f"{args.write_manifest}: {len(matching.pairs)} cases; check every line, fill in what you know")
    return 0


def _description(args: argparse.Namespace) -> Path | None:
    """Return the file of the source that says which file is what."""
    if args.source == "siccs":
        return Path(args.manifest)
    return Path(args.input / "dataset.json") if args.source == "msd" else None


def _finish(run: Run, result: Conversion) -> int:
    from siccs_net.io.files import file_sha256

    for problem in result.problems:
        run.say(f"{problem.severity:<8} {problem.kind:<22} {problem.message}")
    warnings = len(result.problems) - len(result.errors)
    found = f"{len(result.errors)} errors, {warnings} warnings"
    if not result.written:
        hint = "correct them" if run.args.skip_bad else "correct them, or leave these cases out with --skip-bad"
        print(f"siccs_convert: nothing was written: {found}; {hint}", file=sys.stderr, flush=True)
    else:
        counts = {name: sum(file.status == name for file in result.written) for name in ("written", "linked", "kept")}
        listed = ", ".join(f"{count} files {name}" for name, count in counts.items() if count)
        run.say(f"{result.folder}: {len(result.cases)} cases, {listed}; {found}")
        run.say(f"next: siccs_validate {result.folder}")
    run.inputs |= result.input_sha256
    if run.reported and (table := _description(run.args)) is not None:
        run.inputs[str(table)] = file_sha256(table)
    run.outputs |= {str(file.path): file.sha256 for file in result.written}
    run.settings = {"dataset": result.folder.name}
    run.results = {"cases": list(result.cases), "errors": len(result.errors), "warnings": warnings}
    return 4 if result.errors or not result.written else 0
