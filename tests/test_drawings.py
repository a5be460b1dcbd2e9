"""Pictures, charts and drawings of the report: what they show, and where."""

import base64
import io
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from helpers import refused
from matplotlib.image import imread
from PIL import Image

import wavflow
from wavflow.evaluation import Interval
from wavflow.evaluation.report.charts import Scatter, _read_curves, curve_charts, scatter_chart
from wavflow.evaluation.report.drawings import Axis, ladder, likelihood_lane, pitch_lane
from wavflow.reporting.pictures import _level, matrix_png, mel_axis, spectrogram_picture

# Pictures -------------------------------------------------------------------------------------------------------------


def test_level_of_a_full_scale_sine_is_zero_db() -> None:
    sine = torch.sin(2 * math.pi * 64 / 1024 * torch.arange(8000))
    middle = _level("sine", sine, 8000.0)[:, 20:-20]

    assert (middle.argmax(axis=0) == 64).all()
    np.testing.assert_allclose(middle.max(axis=0), 0, atol=0.01)


def test_spectrogram_picture(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "clip.png"
    signals = {
        "recording": 0.1 * torch.randn(9000),
        "shorter": 0.1 * torch.randn(5000).numpy(),
        "no formula: $\\frac$": torch.zeros(300),
    }

    spectrogram_picture(path, signals, 16000)

    picture = imread(path)
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.1
    assert [file.name for file in path.parent.iterdir()] == ["clip.png"], "nothing half-written beside it"


def test_spectrogram_picture_refuses_what_it_cannot_draw(tmp_path: Path) -> None:
    path, stereo = tmp_path / "clip.png", {"stereo": torch.zeros(2, 900)}
    refused(lambda: spectrogram_picture(path, {}, 16000), "`signals` must hold at least one")
    refused(lambda: spectrogram_picture(path, stereo, 16000), "'stereo' must be one clip")
    assert not list(tmp_path.iterdir())


def test_matrix_picture_shows_each_value_in_its_color() -> None:
    values = torch.tensor([[-5.0, 0.0, 0.49], [0.51, 1.0, 9.0]])
    picture = np.asarray(Image.open(io.BytesIO(matrix_png(values, 0.0, 1.0, "magma"))).convert("RGB"))

    def color(x: float) -> np.ndarray:
        return np.asarray(matplotlib.colormaps["magma"](x, bytes=True)[:3])

    assert picture.shape == (2, 3, 3)
    bottom, top = picture[1], picture[0]  # row 0 of a spectrogram is its lowest band
    for pixel, x in ((bottom[0], 0.0), (bottom[1], 0.0), (bottom[2], 31 / 63), (top[0], 32 / 63), (top[1], 1.0), (top[2], 1.0)):
        np.testing.assert_array_equal(pixel, color(x))


# Charts ---------------------------------------------------------------------------------------------------------------

METRICS = """epoch,step,lr-Adam,train/loss_step,validation/loss,train/kl,validation/kl,train/a
0,0,,3.5,,0.5,,1
0,1,0.001,,,,,2
0,9,,2.5,,nan,,
0,9,,,2.75,,,
1,19,,1.5,,,,
"""


def test_curves_are_read_from_sparse_columns(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(METRICS)
    curves = _read_curves(tmp_path / "metrics.csv")

    assert list(curves) == ["loss", "kl", "a"]
    assert list(curves["kl"]) == ["train"], "an empty column draws nothing, and nan is no point"
    np.testing.assert_array_equal(curves["loss"]["train"], [[0, 3.5], [9, 2.5], [19, 1.5]])
    np.testing.assert_array_equal(curves["loss"]["validation"], [[9, 2.75]])


def test_charts_take_their_colors_from_the_page(tmp_path: Path) -> None:
    (tmp_path / "teacher.csv").write_text(METRICS)
    rows = "\n".join(f"{step},{100 / (1 + step) + step % 3}" for step in range(200))
    (tmp_path / "student.csv").write_text("step,train/loss\n" + rows + "\n")
    (tmp_path / "empty.csv").write_text("")

    teacher, student = (curve_charts(name, tmp_path / f"{name}.csv") for name in ("teacher", "student"))

    assert list(teacher) == ["loss", "kl", "a"]
    charts = [*teacher.values(), *student.values()]
    for chart in charts:
        root = ET.fromstring(chart)
        assert not any(element.get("id") for element in root.iter()), "it might clash with another one on the page"
        assert "var(--accent)" in chart
        assert "currentColor" in chart
        assert "nan" not in chart
        assert "step" in "".join(root.itertext()), "text stays text"
    assert "var(--second)" in teacher["loss"], "validation has its own color"
    assert curve_charts("empty", tmp_path / "empty.csv") == {}
    refused(lambda: curve_charts("absent", tmp_path / "absent.csv"), r"absent.csv", FileNotFoundError)


def test_scatter_names_its_points() -> None:
    points = [("a <b>", 0.01, 1.5), ("$\\frac$", 8.0, 1.4)]
    chart = scatter_chart(Scatter("Quality", "speed", "M-STFT", points))
    text = "".join(ET.fromstring(chart).itertext())

    for part in ("a <b>", "$\\frac$", "speed", "M-STFT", "0.01"):
        assert part in text


def test_axis_over_many_decades_has_numbers() -> None:
    labels = [label for label, _ in Axis(1e-12, 1, 0, 100, logarithmic=True).labels()]

    assert 3 <= len(labels) <= 10
    assert {*labels} <= {f"{10.0**k:g}" for k in range(-12, 1)}


# Drawings -------------------------------------------------------------------------------------------------------------


def paths(svg: str, kind: str) -> list[list[tuple[float, float]]]:
    """The points of the paths of a class."""
    found = re.findall(rf'<path class="{kind}[^"]*"[^>]* d="([^"]*)"', svg)
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", d)] for d in found]


def test_likelihood_lane_shows_mean_and_low_percentile_of_each_frame() -> None:
    log_prob = torch.full((350,), 2.0)  # three frames and a half, of 100 samples at 1000 Hz
    log_prob[100:200] = 4.0
    log_prob[200:210] = -8.0  # a tenth of the third frame: its mean is 1, its 5th percentile -8
    svg = likelihood_lane({"teacher & co": log_prob}, 100, 1000, 0.35)

    (line,), (band,) = paths(svg, "line"), paths(svg, "band")
    assert [x for x, _ in line] == [0.05, 0.15, 0.25]
    y = dict(line)
    low, high = y[0.25], y[0.15]
    assert high == 4.0, "the top of the lane is the highest value"
    assert (low - y[0.05]) / (y[0.05] - high) == pytest.approx(0.5, abs=0.02), "means 1, 2, 4"
    assert band[:3] == line
    assert band[3][0] == 0.25, "the band goes back"
    assert band[3][1] > 90
    assert band[4] == line[1], "where all samples are alike the band is thin"
    assert 'aria-label="Log-likelihood of the recording under teacher &amp; co' in svg
    samples = list(base64.b64decode(re.findall('data-samples="(.*?)"', svg)[0]))
    assert samples == [round((float(x) + 8) / 12 * 255) for x in log_prob], "from the lowest to the highest"
    assert likelihood_lane({"x": torch.full((9,), -math.inf)}, 3, 1000, 0.01) == ""
    log_prob[:100] = -math.inf
    assert "nan" not in likelihood_lane({"x": log_prob}, 100, 1000, 0.35)


def test_pitch_lane_breaks_where_nothing_is_voiced() -> None:
    track = np.array([np.nan, 100.0, 200.0, np.nan, 400.0, np.nan])
    svg = pitch_lane({"recording": track, "a<b": 2 * track}, 2560, 0.6)  # 256 samples, .1 s, from frame to frame

    first, second = paths(svg, "line")
    assert [x for x, _ in first] == [0.1, 0.2, 0.4, 0.41], "a lone frame is a point"
    heights = [y for _, y in first]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.11), "octaves are equally high"
    assert heights[1] == second[0][1]
    assert re.findall(r'data-name="([^"]*)"', svg) == ["recording", "a&lt;b"]
    assert [d.count("M") for d in re.findall(r'data-name="[^"]*" d="([^"]*)"', svg)] == [2, 2]
    assert pitch_lane({"recording": np.full(3, np.nan)}, 2560, 0.3) == ""


@pytest.mark.parametrize("hertz", [500, 1000, 2000])
def test_frequency_axis_points_at_the_band_of_a_sine(hertz: int) -> None:
    mel = wavflow.MelSpectrogram(sample_rate=16000, f_max=8000.0)
    bands = mel(0.1 * torch.sin(2 * math.pi * hertz / 16000 * torch.arange(8000))[None])[0, :, 10]
    label = f"{hertz / 1000:g} kHz"

    row = (100 - dict(mel_axis(mel))[label]) / 100 * mel.n_mels  # rows from the bottom of the picture
    assert row == pytest.approx(bands.argmax().item() + 0.5, abs=1.0)


def test_ladder_places_likelihoods_by_value() -> None:
    rows = [{"of": "FLAC", "bits/sample": 9.0}, {"of": "<t>", "bits/sample": Interval(8.0, 0.5, 3)}, {"of": "none"}]
    page = ladder(rows)

    dots = [float(left) for left in re.findall(r'<b style="left:([\d.]+)%', page)]
    (start, width) = map(float, re.findall(r'<i style="left:([\d.]+)%;width:([\d.]+)%', page)[1])
    assert dots[0] > dots[1]
    assert start + width / 2 == pytest.approx(dots[1], abs=0.02)
    assert width == pytest.approx(dots[0] - dots[1], abs=0.02), "twice .5 bits"
    assert "&lt;t&gt;" in page
    assert "none" not in page
    assert ladder(rows[2:]) == ""
