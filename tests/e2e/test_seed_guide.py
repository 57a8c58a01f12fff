"""The guide that users know, word for word, in both colours."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

import asyncart
import asyncart.aio


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project directory like the guide's, as the working directory, with a home of its own."""
    monkeypatch.setenv("ASYNCART_HOME", str(tmp_path / "home"))
    folder = tmp_path / "project"
    (folder / "images").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    (folder / "images" / "cat.png").write_bytes(b"cat" * 1000)
    (folder / "images" / "dog.png").write_bytes(b"dog" * 1000)
    (folder / "checkpoints" / "model.h5").write_bytes(os.urandom(50_000))
    (folder / "bicycle-data.h5").write_bytes(os.urandom(10_000))
    monkeypatch.chdir(folder)
    return folder


def test_the_guide_runs_with_blocking_calls(project: Path) -> None:
    """`import asyncart as wandb`, and the guide's code works unchanged."""
    wandb = asyncart
    run = wandb.init(project="bikes", job_type="train")
    artifact = wandb.Artifact(
        "bike-dataset", type="dataset", description="bikes", metadata={"rows": 17379}
    )
    artifact.add_file("bicycle-data.h5")
    artifact.add_file("checkpoints/model.h5", name="models/m.h5")
    artifact.add_dir("images")
    artifact.add_dir("images", name="images")
    with artifact.new_file("hello.txt") as f:
        f.write("hello")
    artifact.add_reference("s3://bucket/model.h5")
    artifact.add_reference(f"file://{project}/bicycle-data.h5", name="ref/b.h5")
    run.log_artifact(artifact, aliases=["latest", "best-ap50"])
    assert artifact.version == "v0"

    art = run.use_artifact("bike-dataset:v0", type="dataset")
    folder = Path(art.download())
    assert (folder / "images" / "cat.png").read_bytes() == b"cat" * 1000
    assert (folder / "cat.png").read_bytes() == b"cat" * 1000
    assert (folder / "hello.txt").read_text() == "hello"
    assert (folder / "models" / "m.h5").read_bytes() == Path("checkpoints/model.h5").read_bytes()
    assert run.use_artifact("bike-dataset:latest") == art
    assert run.use_artifact("bike-dataset:best-ap50").metadata == {"rows": 17379}

    unlogged = wandb.Artifact("bike-model", type="model")
    unlogged.add_file("checkpoints/model.h5")
    first = run.use_artifact(unlogged)
    again = wandb.Artifact("bike-model", type="model")
    again.add_file("checkpoints/model.h5")
    assert run.use_artifact(again).version == first.version == "v0"
    assert first.get_path("model.h5").size == 50_000

    entry = art.get_path("images/cat.png")
    assert Path(entry.download()).read_bytes() == b"cat" * 1000
    assert art.get_path("model.h5").ref_target() == "s3://bucket/model.h5"
    assert [a.name for a in run.used_artifacts()] == ["bike-dataset:v0", "bike-model:v0"]
    assert [a.name for a in run.logged_artifacts()] == ["bike-dataset:v0"]
    run.finish()


async def test_the_guide_runs_with_await(project: Path) -> None:
    """The same with `asyncart.aio` and `await`."""
    wandb = asyncart.aio
    async with wandb.init(project="bikes", job_type="train") as run:
        artifact = wandb.Artifact("bike-dataset", type="dataset")
        artifact.add_file("checkpoints/model.h5")
        artifact.add_dir("images", name="images")
        async with artifact.new_file("hello.txt") as f:
            await f.write("hello")
        await run.log_artifact(artifact, aliases=["best-ap50"])
        art = await run.use_artifact("bike-dataset:best-ap50", type="dataset")
        folder = Path(await art.download())
        assert sorted(
            p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()
        ) == [
            "hello.txt",
            "images/cat.png",
            "images/dog.png",
            "model.h5",
        ]
        entry = await art.get_path("images/cat.png")
        assert await entry.read(3, 3) == b"cat"


async def test_an_artifact_logged_by_one_colour_is_found_by_the_other(project: Path) -> None:
    """Both faces work on one store."""

    def log() -> str:
        with asyncart.init(project="bikes") as run:
            return run.log_artifact("images", name="pictures", type="dataset").version

    assert await asyncio.to_thread(log) == "v0"
    api = asyncart.aio.Api(project="bikes")
    assert (await api.artifact("pictures")).file_count == 2
    assert not await api.artifact_exists("pictures:v1")
    await api.aclose()
