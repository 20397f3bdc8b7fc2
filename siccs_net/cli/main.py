"""Entry points of the commands. Nothing heavy is imported before a command line is parsed."""

from __future__ import annotations

import sys


def _run(verb: str) -> None:
    from siccs_net.cli.process import run_command

    sys.exit(run_command(verb, sys.argv[1:]))


def demo() -> None:
    """siccs_demo."""
    _run("demo")


def validate() -> None:
    """siccs_validate."""
    _run("validate")


def plan_and_preprocess() -> None:
    """siccs_plan_and_preprocess."""
    _run("plan_and_preprocess")


def train() -> None:
    """siccs_train."""
    _run("train")


def predict() -> None:
    """siccs_predict."""
    _run("predict")


def evaluate() -> None:
    """siccs_evaluate."""
    _run("evaluate")


def report() -> None:
    """siccs_report."""
    _run("report")


def find_best_configuration() -> None:
    """siccs_find_best_configuration."""
    _run("find_best_configuration")


def ensemble() -> None:
    """siccs_ensemble."""
    _run("ensemble")


def accumulate() -> None:
    """siccs_accumulate."""
    _run("accumulate")


def overlay() -> None:
    """siccs_overlay."""
    _run("overlay")


def convert() -> None:
    """siccs_convert."""
    _run("convert")


def export_model() -> None:
    """siccs_export_model."""
    _run("export_model")


def import_model() -> None:
    """siccs_import_model."""
    _run("import_model")


def doctor() -> None:
    """siccs_doctor."""
    _run("doctor")
