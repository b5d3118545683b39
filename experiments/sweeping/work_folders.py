"""What lies in a sweep's work folders: which stages are complete, and links to shared ones."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from sweeping.jobs import Job


def stage_record(workdir: Path, stage: str) -> dict:
    """Returns what a stage wrote about itself, or {} where it has not begun."""
    try:
        return json.loads((workdir / stage / "stage.json").read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}


def is_complete(sweep_dir: Path, job: Job) -> bool:
    """Whether all stages of a job have been made, from what the plan says."""
    workdir = sweep_dir / job.workdir
    return all(is_made(workdir, stage, made_by) for stage, made_by in job.fingerprints.items())


def not_as_planned(sweep_dir: Path, job: Job) -> str:
    """Returns why a job that has ended well has made something else than planned; "" if it has not.

    A run goes on from the stages that it finds. One of its folder's own, made before its config
    changed and others came to share that stage, is not replaced by a link.

    Args:
        sweep_dir: of the sweep.
        job: that has ended.
    """
    workdir = sweep_dir / job.workdir
    for stage, made_by in job.fingerprints.items():
        record = stage_record(workdir, stage)
        # Of a file system that shows late that a stage is complete, nothing is said.
        if record.get("complete") and record["fingerprint"] != made_by:
            own = [
                linked
                for linked, source in job.links.items()
                if stage_record(workdir, linked).get("fingerprint")
                != stage_record(sweep_dir / source, linked).get("fingerprint")
            ]
            stale = workdir / (own or [stage])[0]
            return (
                f"{stage} is not what the sweep plans, since {stale} was made by another config; "
                "delete that folder and those of later stages beside it, and run the sweep again"
            )
    return ""


def is_made(workdir: Path, stage: str, fingerprint: str) -> bool:
    """Whether a stage is complete, and is what it would be if it were made now.

    Args:
        workdir: of the run.
        stage: name of it.
        fingerprint: that its stage.json would have.
    """
    record = stage_record(workdir, stage)
    return bool(record.get("complete")) and record["fingerprint"] == fingerprint


def complete_stages(sweep_dir: Path) -> dict[str, Path]:
    """Returns the folder of every complete stage of a sweep by its fingerprint; links left out."""
    found = {}
    for path in sorted(sweep_dir.glob("shared/*/*/stage.json")) + sorted(
        sweep_dir.glob("cells/*/*/stage.json")
    ):
        record = stage_record(path.parent.parent, path.parent.name)
        if record.get("complete") and not path.parent.is_symlink():
            found.setdefault(record["fingerprint"], path.parent)
    return found


def adopt_stages(sweep_dir: Path, job: Job, made_before: Mapping[str, Path]) -> None:
    """Links the stages that a job would make to where they have been made before.

    Args:
        sweep_dir: of the sweep.
        job: its folder gets the links.
        made_before: fingerprint -> folder, of what a smaller or larger sweep left here.
    """
    for stage, fingerprint in job.fingerprints.items():
        if fingerprint in made_before:
            _link_stage(made_before[fingerprint], sweep_dir / job.workdir, stage)


def link_stages(sweep_dir: Path, job: Job) -> None:
    """Links the stages that a job starts from, and the data that were prepared for them.

    Every process of a job may do it at once.

    Args:
        sweep_dir: of the sweep.
        job: its folder gets the links.

    Raises:
        FileNotFoundError: a stage that the job starts from is not complete.
    """
    workdir = sweep_dir / job.workdir
    for stage, source in job.links.items():
        if not stage_record(sweep_dir / source, stage).get("complete"):
            raise FileNotFoundError(
                f"{sweep_dir / source / stage}, on which {job.name} rests, is not complete"
            )
        _link_stage(sweep_dir / source / stage, workdir, stage)
    # Prepared data are the same wherever pretrain is. Latents of the target are encoded in adapt:
    # before, two folders would write them at once.
    for folder, needed in (("data", "pretrain"), ("latents", "adapt")):
        source = sweep_dir / job.links[needed] / folder if needed in job.links else None
        if source is not None and source.is_dir():
            _link(source, workdir / folder)


def _link_stage(source: Path, workdir: Path, stage: str) -> None:
    """Links a complete stage, in place of what a run has begun there by itself."""
    begun = workdir / stage
    if not begun.is_symlink() and not stage_record(workdir, stage).get("complete"):
        shutil.rmtree(begun, ignore_errors=True)
    _link(source, begun)


def _link(source: Path, place: Path) -> None:
    """Puts a relative link to a folder at a place where there is none, or a copy of it."""
    source = source.resolve()
    if place.is_dir() and (not place.is_symlink() or place.resolve() == source):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
    try:
        os.symlink(os.path.relpath(source, place.parent.resolve()), temporary)
    except OSError:  # A file system without links.
        shutil.copytree(source, temporary)
    try:
        os.replace(temporary, place)
    except OSError:
        # Another process of the job was faster.
        shutil.rmtree(temporary)
        if not place.is_dir():
            raise
