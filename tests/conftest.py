"""Fixtures of all tests. Real CT is read from ../shared/data beside the checkout; its tests are skipped without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from siccs_net.io import formats
from siccs_net.testing.tiny import write_tiny_dataset

settings.register_profile("siccs", deadline=None, max_examples=int(os.environ.get("SICCS_EXAMPLES", "40")))
settings.load_profile("siccs")
SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real CT."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return SHARED_DATA


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A tiny dataset of eight cases in tmp_path/raw."""
    return write_tiny_dataset(tmp_path / "raw" / "Dataset999_Tiny", cases=8)


@pytest.fixture(autouse=True)
def _own_readers() -> Iterator[None]:
    """Forget the readers that a test, or a snippet of the docs, plugged in: they hold for the process."""
    plugged, loaded = dict(formats._plugged), set(formats._loaded)
    yield
    formats._plugged.clear()
    formats._plugged.update(plugged)
    formats._loaded.clear()
    formats._loaded.update(loaded)
