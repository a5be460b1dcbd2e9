"""Metrics of audio clips, anchors to compare them with, and tables of the results."""

from wavflow.clips import MissingLibraryError
from wavflow.evaluation.alignment import align, estimate_lag
from wavflow.evaluation.anchors import griffin_lim, random_phase, world
from wavflow.evaluation.metrics import judging_mel, level_db, log_spectral_distance, m_stft, mel_l1
from wavflow.evaluation.perception import estoi, pesq_wb
from wavflow.evaluation.pitch import dio_track, f0_rmse_cents, gross_error_fraction, pyin_track, voicing_f1
from wavflow.likelihood.bits import bits_per_sample, flac_bits
from wavflow.reporting.intervals import Interval, mean_interval
from wavflow.reporting.tables import markdown_table

__all__ = [
    "Interval",
    "MissingLibraryError",
    "align",
    "bits_per_sample",
    "dio_track",
    "estimate_lag",
    "estoi",
    "f0_rmse_cents",
    "flac_bits",
    "griffin_lim",
    "gross_error_fraction",
    "judging_mel",
    "level_db",
    "log_spectral_distance",
    "m_stft",
    "markdown_table",
    "mean_interval",
    "mel_l1",
    "pesq_wb",
    "pyin_track",
    "random_phase",
    "voicing_f1",
    "world",
]
