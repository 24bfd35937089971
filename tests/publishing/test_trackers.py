"""--log with the trackers' own libraries: what each keeps of a night, without a network.

Needs the environment that `make test-trackers` makes.
"""

import json
import sqlite3

import pytest

from tests.publishing.test_nights import Place, place

__all__ = ["place"]

pytestmark = pytest.mark.trackers

TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"


def kept_by_trackio(place: Place) -> str:
    """All rows of its database."""
    (database,) = (place.path / "trackio").glob("soup-nightly*.db")
    with sqlite3.connect(database) as opened:
        tables = [name for (name,) in opened.execute(TABLES)]
        return str([opened.execute(f'SELECT * FROM "{t}"').fetchall() for t in tables])


def test_mlflow(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own files hold the run."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{place.path}/runs")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    done = place.night("--log", "mlflow")
    assert done.returncode == 0 and "warning" not in done.stderr
    (mean,) = (place.path / "runs").glob("*/*/metrics/mean")
    assert float(mean.read_text().split()[1]) == 75.0
    (verdict,) = (place.path / "runs").glob("*/*/tags/verdict")
    assert verdict.read_text() == "better"
    (document,) = (place.path / "runs").glob("*/*/artifacts/night.json")
    assert json.loads(document.read_text()) == done.document


def test_weights_and_biases(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline: what would be sent lies in its directory."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    done = place.night("--log", "wandb")
    assert done.returncode == 0 and "warning" not in done.stderr
    (run,) = (place.path / "wandb").glob("offline-run-*/run-*.wandb")
    content = run.read_bytes()
    for text in (b"soup-nightly", b"verdict", b"better", b"published", b"night.json"):
        assert text in content, text


def test_trackio(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its database holds the metrics."""
    monkeypatch.setenv("TRACKIO_DIR", str(place.path / "trackio"))
    done = place.night("--log", "trackio")
    assert done.returncode == 0 and "warning" not in done.stderr
    rows = kept_by_trackio(place)
    assert "75.0" in rows and "better" in rows


def test_a_night_that_fails(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three are told, each by itself; the exit code is the failure's."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{place.path}/runs")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(place.path / "trackio"))
    (place.ckpts / "c" / "config.json").write_text("{")
    logs = [word for name in ("mlflow", "wandb", "trackio") for word in ("--log", name)]
    done = place.night("--no-skip-bad", *logs)
    assert done.returncode == 1 and "not told" not in done.stderr
    (verdict,) = (place.path / "runs").glob("*/*/tags/verdict")
    assert verdict.read_text() == "failed"
    (run,) = (place.path / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"config.json" in run.read_bytes()
    rows = kept_by_trackio(place)
    assert '"verdict":"failed"' in rows and "config.json" in rows
