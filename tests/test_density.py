"""The density bench: the training loop, densities in the data's own units, and the command."""

import json
import math
from pathlib import Path

import pytest
import torch
from commands import is_refused, succeeds
from flow_checks import assert_round_trip, assert_total_log_det_is_exact
from helpers import randomized, refused
from torch import Tensor, nn

from wavflow.tabular import bench, densities, tables
from wavflow.tabular.densities import Logit, density
from wavflow.tabular.fitting import fit, nll

MAF = {"name": "maf", "depth": 2, "hidden": [8]}
SMALL = ["data=shape", "data.rows=200", "fit.epochs=2", "flow.depth=2"]


class Bell(nn.Module):
    """A Gaussian density of unknown loc."""

    def __init__(self, loc: float = 3.0) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(loc))

    def log_prob(self, x: Tensor) -> Tensor:
        return (-0.5 * (x - self.loc).square() - 0.5 * math.log(2 * math.pi)).sum(dim=1)


# --- the training loop --------------------------------------------------------------------------------------------------


def test_training_ends_at_the_maximum_likelihood() -> None:
    x = torch.randn(200, 1, 1)
    bell = Bell()
    history = fit(bell, x, x, epochs=80, lr=0.2, batch_size=200, weight_decay=0.0, average=0.5)
    assert bell.loc.item() == pytest.approx(x.mean().item(), abs=0.02)
    assert history.epochs[0].validation == pytest.approx(nll(Bell(), x))
    assert history.epochs[history.best].validation == pytest.approx(nll(bell, x))


def test_early_stopping_keeps_the_best_weights() -> None:
    # Training pulls the loc from 3 to 0; validation lies at 1, so it gets better, then worse.
    bell, train, validation = Bell(), torch.randn(64, 1, 1) * 0.01, 1 + torch.randn(64, 1, 1) * 0.01
    history = fit(bell, train, validation, epochs=500, patience=4, lr=0.05, batch_size=64, average=0.0)
    assert history.ended == "patience"
    assert history.best + 4 == len(history.epochs) - 1
    assert 0 < history.best == min(range(len(history.epochs)), key=lambda i: history.epochs[i].validation)
    assert nll(bell, validation) == pytest.approx(history.epochs[history.best].validation, abs=1e-12)
    assert bell.loc.item() == pytest.approx(1.0, abs=0.05)


def test_the_average_of_the_weights_is_judged_and_kept() -> None:
    x = torch.zeros(10, 1, 1)
    steps = {a: Bell() for a in (0.0, 0.9)}
    for average, bell in steps.items():
        fit(bell, x, x, epochs=5, lr=0.1, batch_size=10, average=average)
    assert 3.0 > steps[0.9].loc.item() > steps[0.0].loc.item() + 0.05, "an average lags behind"


def test_a_loss_that_is_not_finite_ends_training_with_the_best_kept() -> None:
    x, bell, calls = torch.zeros(20, 1, 1), Bell(), 0

    def poison(batch: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return batch * (math.nan if calls == 6 else 1.0)  # the first call is of the untrained model's epoch

    history = fit(bell, x, x, epochs=9, lr=0.1, batch_size=10, jitter=poison)
    assert history.ended == "loss nan, gradient nan in epoch 3"
    assert len(history.epochs) == 3
    assert nll(bell, x) == pytest.approx(history.epochs[history.best].validation)
    assert bell.loc.item() < 3.0


def test_a_time_limit_ends_training() -> None:
    history = fit(Bell(), torch.zeros(20, 1, 1), torch.zeros(20, 1, 1), epochs=10**9, max_seconds=0.05, patience=10**9)
    assert history.ended == "time"
    assert 0.05 <= history.seconds < 5


def test_a_model_that_begins_without_a_likelihood_is_refused() -> None:
    with pytest.raises(ValueError, match="finite likelihood before training, got nan"):
        fit(Bell(math.nan), torch.zeros(4, 1, 1), torch.zeros(4, 1, 1))
    refused(lambda: fit(Bell(), torch.zeros(4, 1, 1), torch.zeros(4, 1, 1), patience=0), "`patience` must be at least 1, got 0")


# --- densities ----------------------------------------------------------------------------------------------------------


def test_logit_is_exact_at_both_ends_of_the_gray_levels() -> None:
    x = torch.tensor([0.0, 0.3, 1.0, 0.9])[None, :, None]
    assert_round_trip(Logit(), x)
    assert_total_log_det_is_exact(Logit(), x)
    torch.testing.assert_close(Logit()(x[:, :1])[0].squeeze(), torch.logit(torch.tensor(0.05)))


def test_a_trained_density_integrates_to_one_in_the_units_of_the_data() -> None:
    scale, loc = torch.tensor([5.0, 0.2]), torch.tensor([-20.0, 3.0])
    rows = loc + scale * torch.randn(300, 2)
    data = tables.Data([tables.Fold(rows[:200], rows[200:250], rows[250:])], ["a", "b"])
    model = bench.fit_all(data, MAF, {"epochs": 3}).models[0]
    axis = torch.linspace(-9.0, 9.0, 361)
    grid = (loc + scale * torch.cartesian_prod(axis, axis))[..., None]
    with torch.no_grad():
        mass = model.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2 * scale.prod()
    assert mass.item() == pytest.approx(1.0, abs=1e-3)


def test_standardized_figures_are_those_of_columns_of_deviation_one() -> None:
    rows = torch.randn(400, 3) * torch.tensor([100.0, 1e-3, 1.0]) + 50.0
    stored, scaled = (
        tables.Data([tables.Fold(x[:200], x[200:250], x[250:])], list("abc"), standardized)
        for x, standardized in ((rows, True), ((rows - rows[:250].mean(0)) / rows[:250].std(0, correction=0), False))
    )
    for one, other in zip(*(bench.fit_all(d, MAF, {"epochs": 2}).log_probs for d in (stored, scaled)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    torch.testing.assert_close(bench.baseline(stored)[0], bench.baseline(scaled)[0], rtol=0, atol=1e-6)


def test_bits_per_dim_of_even_noise_are_those_of_its_levels() -> None:
    # A uniform density on [0, 1)^D costs log2(levels) bits per pixel, whatever D is.
    fold = tables.Fold(*torch.rand(3, 30, 4))
    data = tables.Data([fold], list("abcd"), levels=17)
    uniform = torch.zeros(30) + bench.offset(data, fold)
    assert bench.row("uniform", data, [uniform])["bits/dim"] == pytest.approx(math.log2(17))


def test_pictures_get_noise_of_one_level_and_a_logit() -> None:
    levels = torch.randint(17, (200, 4)) / 17
    noisy = bench.dequantize(levels, 17)
    assert ((noisy - levels) * 17).aminmax() >= (0.0, 0.9)
    assert ((noisy - levels) * 17 < 1).all()
    assert torch.equal(bench.dequantize(levels, None), levels)
    data = tables.Data([tables.Fold(levels, noisy, noisy)], list("abcd"), levels=17)
    fitted = bench.fit_all(data, MAF, {"epochs": 3})
    bits = bench.rows(data, fitted)[-1]["bits/dim"]
    assert bits == pytest.approx(math.log2(17), abs=0.35), "even levels can't be coded in less, and not much is lost"
    assert bits > math.log2(17)


def test_the_gaussian_is_the_one_of_full_covariance() -> None:
    known, test = torch.randn(50, 2) @ torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.randn(5, 2)
    expected = torch.distributions.MultivariateNormal(known.mean(0), torch.cov(known.T)).log_prob(test)
    torch.testing.assert_close(densities.gaussian_log_prob(known[..., None], test[..., None]), expected)
    one = densities.gaussian_log_prob(known[:, :1, None], test[:, :1, None])
    torch.testing.assert_close(one, torch.distributions.Normal(known[:, 0].mean(), known[:, 0].std()).log_prob(test[:, 0]))


def test_a_column_that_follows_from_others_is_named_before_training() -> None:
    x = torch.randn(80, 2)
    columns = ["a", "b", "sum"]
    bench.check_independent(torch.stack([x[:, 0], 1e9 + x[:, 1], x.sum(dim=1) + 0.01 * torch.randn(80)], dim=1), columns)
    data = tables.Data(tables.split(torch.cat([x, x.sum(dim=1, keepdim=True)], dim=1), 2, seed=0), columns, standardized=True)
    refused(lambda: bench.fit_all(data, {"name": "maf"}, {"epochs": 0}), "before it, sum: leave it out")


def test_kl_to_the_truth_is_zero_for_the_truth_alone() -> None:
    data = tables.shape("banana", rows=2000)
    truth, gaussian, _ = bench.rows(data, bench.fit_all(data, MAF, {"epochs": 1}))
    assert truth["KL to the truth"].mean == 0
    assert gaussian["KL to the truth"].mean == pytest.approx(truth["test log p"].mean - gaussian["test log p"].mean)
    assert gaussian["KL to the truth"].mean > 0.3


def test_a_likelihood_that_is_not_finite_is_shown_as_none() -> None:
    data = tables.shape(rows=200)
    line = bench.row("bad", data, [torch.tensor([0.0, -math.inf])])
    assert line["test log p"] is line["median"] is line["KL to the truth"] is None


@pytest.mark.parametrize("name", densities.FLOWS)
def test_every_flow_is_saved_and_loaded_as_it_is(tmp_path: Path, name: str) -> None:
    config = {"flow": {"name": name, "depth": 2}, "features": 3, "levels": None}
    model = density(**config)
    x = torch.randn(50, 3, 1)
    model.initialize(x)
    randomized(model.transform.transforms[1], 0.1)
    densities.save(model, tmp_path / "model.safetensors", config)
    again = densities.load(tmp_path / "model.safetensors")
    torch.testing.assert_close(again.log_prob(x), model.log_prob(x).detach(), rtol=0, atol=1e-12)
    assert not any(p.requires_grad for p in again.parameters())


def test_a_flow_that_is_none_is_refused(tmp_path: Path) -> None:
    refused(lambda: density({"name": "os.system"}, 2), r"`flow.name` must be one of nice, .* got 'os.system'")
    refused(lambda: density({**MAF, "width": 3}, 2), r"`flow.width`: maf takes no such argument: choose among depth")
    refused(lambda: densities.load(tmp_path / "none"), "no model file", FileNotFoundError)
    (tmp_path / "half").write_bytes(b"\0" * 20)
    refused(lambda: densities.load(tmp_path / "half"), "not a whole density file")


# --- the command --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", ["maf", "real_nvp"])
def test_a_shape_is_learnt_scored_and_drawn(tmp_path: Path, flow: str) -> None:
    folder = tmp_path / "out"
    outcome = succeeds("density", f"flow={flow}", *SMALL, "flow.hidden=[8]", f"output={folder}")
    names = ["the truth", "Gaussian", flow]
    assert [line.split("|")[1].strip() for line in outcome.out.splitlines()[2:5]] == names
    results = json.loads((folder / "results.json").read_text())
    assert [line["model"] for line in results["table"]] == names
    assert len(results["folds"][flow][0]["epochs"]) == 3
    pictures = {"density.png", "layers.png", "jacobian.png", "training.png"}
    assert {p.name for p in folder.iterdir()} == pictures | {"model.safetensors", "results.md", "results.csv", "results.json"}
    assert densities.load(folder / "model.safetensors").log_prob(torch.zeros(1, 2, 1)).isfinite()


def test_a_table_in_folds_is_judged_with_an_interval_over_them(tmp_path: Path) -> None:
    path, folder = tmp_path / "red.csv", tmp_path / "out"
    path.write_text("\n".join(",".join(map(str, row)) for row in torch.randn(100, 4).tolist()))
    options = ["data=wine", f"data.path={path}", "data.folds=2", "fit.epochs=1", "flow.depth=1", "flow.hidden=[4]"]
    succeeds("density", *options, "noise=0.1", f"output={folder}")
    gaussian, maf = json.loads((folder / "results.json").read_text())["table"]
    assert maf["test log p"]["n"] == 2
    assert maf["worst fold"] <= maf["test log p"]["mean"]
    assert gaussian["test log p"]["mean"] == pytest.approx(-3 * (0.5 + 0.5 * math.log(2 * math.pi)), abs=0.5)
    assert (folder / "samples.png").stat().st_size > 1000


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    output = f"output={tmp_path / 'out'}"
    csv = tmp_path / "constant.csv"
    csv.write_text("a,b\n" + "".join(f"{i},5\n" for i in range(60)))
    is_refused(tmp_path, "density", "data=csv", output, words="`data.path` is needed")
    is_refused(tmp_path, "density", "data=csv", f"data.path={csv}", output, words="`data.path`|b: constant")
    is_refused(tmp_path, "density", "data=csv", "data.path=none.csv", output, words="`data.path`|none.csv")
    is_refused(tmp_path, "density", "data.name=star", output, words="one of ring|'star'")
    is_refused(tmp_path, "density", "flow=glo", output, words="`flow` has no option 'glo'|glow")
    is_refused(tmp_path, "density", "flow.hidden=[0]", output, words="`hidden`")
    is_refused(tmp_path, "density", "fit.epochs=0", output, words="`fit.epochs` must be a whole number of at least 1|got 0")
    is_refused(tmp_path, "density", "fit.max_seconds=0", output, words="`fit.max_seconds` must be a number above 0.0, got 0")
    is_refused(tmp_path, "density", "noise=-1", output, words="`noise` must not be negative")
