"""Lines of metrics and of progress, as a reader with a JSON parser and a clock sees them."""

import json
import logging
import math
import time

import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.training.atomic_files import StorageError
from rlsyn_jax.training.metrics import (
    JsonlWriter,
    Progress,
    create_metric_writer,
    duration,
    read_metrics,
)


def strict_lines(path):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    text = path.read_bytes().decode("utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.split("\n")[:-1]]


def write_steps(path, steps, **options):
    writer = JsonlWriter(path, **options)
    for step in steps:
        writer.write_scalars(step, {"loss": step / 4})
    writer.close()


def test_each_call_is_one_valid_line(tmp_path):
    path = tmp_path / "deep" / "metrics.jsonl"
    writer = JsonlWriter(path)
    writer.write_hparams({"rate": 0.1, "sizes": (1, 2), "kind": np.dtype("int8")})
    writer.write_scalars(3, {"loss": jnp.float32(0.5), "count": np.int64(7)})
    writer.write_texts(np.int64(4), {"note": 'a "quoted"\nline'})
    assert strict_lines(path) == [
        {
            "step": 0,
            "kind": "hparams",
            "values": {"rate": 0.1, "sizes": [1, 2], "kind": "int8"},
        },
        {"step": 3, "kind": "scalars", "loss": 0.5, "count": 7.0},
        {"step": 4, "kind": "texts", "note": 'a "quoted"\nline'},
    ]
    writer.close()
    assert read_metrics(path) == strict_lines(path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_becomes_null(tmp_path, value):
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    writer.write_scalars(1, {"bad": jnp.float32(value), "good": 2})
    writer.close()
    assert strict_lines(tmp_path / "metrics.jsonl")[0] == {
        "step": 1,
        "kind": "scalars",
        "bad": None,
        "good": 2.0,
    }


def test_a_line_can_be_read_as_soon_as_it_is_written(tmp_path):
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    writer.write_scalars(1, {"loss": 1})
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    writer.close()


def test_pictures_sounds_and_histograms_are_taken_and_left_out(tmp_path):
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    writer.write_images(1, {"grid": np.zeros((1, 2, 2, 3))})
    writer.write_videos(1, {})
    writer.write_audios(1, {}, sample_rate=16_000)
    writer.write_histograms(1, {"weights": np.zeros(3)}, num_buckets={"weights": 2})
    writer.write_summaries(1, {}, metadata={})
    writer.close()
    assert strict_lines(tmp_path / "metrics.jsonl") == []


def test_resuming_drops_the_steps_that_will_be_run_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(1, 7))
    write_steps(path, range(5, 8), resume_step=4)
    assert [record["step"] for record in strict_lines(path)] == [1, 2, 3, 4, 5, 6, 7]
    write_steps(path, [8])
    assert [record["step"] for record in strict_lines(path)] == [1, 2, 3, 4, 5, 6, 7, 8]
    write_steps(path, [1], resume_step=0)
    assert [record["step"] for record in strict_lines(path)] == [1]


@pytest.mark.parametrize("text", ["plain", "Zoë, 日本, line\u2028separator, next\x85line"])
def test_a_last_line_cut_at_any_byte_is_dropped_and_the_rest_kept(tmp_path, text):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, [1])
    whole = path.stat().st_size
    writer = JsonlWriter(path)
    writer.write_texts(2, {"note": text})
    writer.close()
    assert read_metrics(path)[1]["note"] == text
    content = path.read_bytes()
    for cut in range(whole + 1, len(content) - 1):
        path.write_bytes(content[:cut])
        assert [record["step"] for record in read_metrics(path)] == [1]
    write_steps(path, [2])
    assert strict_lines(path) == [
        {"step": 1, "kind": "scalars", "loss": 0.25},
        {"step": 2, "kind": "scalars", "loss": 0.5},
    ]


def test_a_last_line_that_lacks_only_its_end_is_kept_apart_from_the_next(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, [1, 2])
    path.write_bytes(path.read_bytes()[:-1])
    write_steps(path, [3])
    assert [record["step"] for record in strict_lines(path)] == [1, 2, 3]


def test_damage_before_the_last_line_is_told_with_its_place(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is not JSON"):
        read_metrics(path)


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="a part of the path is a file"):
        JsonlWriter(tmp_path / "taken" / "metrics.jsonl")


def test_a_full_disk_is_told_with_the_remedy(mounted, tmp_path):
    with mounted(tmp_path / "disk", "size=1m") as folder:
        writer = JsonlWriter(folder / "metrics.jsonl")
        writer.write_scalars(1, {"loss": 1})
        (folder / "filler").write_bytes(bytes(2**20 - 2**13))
        with pytest.raises(StorageError, match=r"metrics\.jsonl: the disk is full; free some"):
            for step in range(2, 1000):
                writer.write_texts(step, {"note": 100 * "x"})
        (folder / "filler").unlink()
        assert [record["step"] for record in read_metrics(folder / "metrics.jsonl")][:2] == [1, 2]
        writer.close()


def test_a_stage_s_writer_resumes_its_metrics_jsonl(tmp_path):
    for steps, resume_step in (([1, 2, 3], None), ([3], 2)):
        writer = create_metric_writer(tmp_path / "stage", resume_step=resume_step)
        for step in steps:
            writer.write_scalars(step, {"loss": resume_step or 0})
        writer.close()
    records = strict_lines(tmp_path / "stage" / "metrics.jsonl")
    assert [(record["step"], record["loss"]) for record in records] == [(1, 0), (2, 0), (3, 2)]


def told(records):
    return [record.getMessage() for record in records if record.name == "absl"]


def make_progress(clock, monkeypatch, **options):
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return Progress("adapt", 400, **options)


def test_progress_tells_share_speed_time_left_and_values(monkeypatch, caplog):
    clock = [100.0]
    with caplog.at_level(logging.INFO, logger="absl"):
        progress = make_progress(clock, monkeypatch)
        clock[0] += 40
        progress.update(120, loss=0.123456, rate=1e-6)
    assert told(caplog.records) == [
        "adapt 120/400 (30 %) 3.0 steps/s, 1 min 33 s left, loss 0.1235, rate 1e-06"
    ]


def test_progress_speaks_at_most_once_in_its_period_and_always_at_the_end(monkeypatch, caplog):
    clock = [0.0]
    with caplog.at_level(logging.INFO, logger="absl"):
        progress = make_progress(clock, monkeypatch, every_seconds=5.0)
        for step in range(1, 401):
            clock[0] += 0.1
            progress.update(step)
    lines = told(caplog.records)
    assert 7 <= len(lines) <= 8
    assert lines[-1].startswith("adapt 400/400 (100 %) 10.0 steps/s, 0 s left")


def test_progress_of_a_resumed_run_leaves_the_earlier_steps_out_of_its_speed(monkeypatch, caplog):
    clock = [0.0]
    with caplog.at_level(logging.INFO, logger="absl"):
        progress = make_progress(clock, monkeypatch, first_step=390)
        clock[0] += 20
        progress.update(395)
    assert told(caplog.records) == ["adapt 395/400 (99 %) 4.0 s/step, 20 s left"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (4320, "1 h 12 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_durations_read_as_a_person_says_them(seconds, text):
    assert duration(seconds) == text
