"""A kind of figure from outside the package: one function, drawn by name through Python and on the command line."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import spp
import spp.plot
from spp.errors import InputError, UnknownNameError
from spp.plot.panels import Curve, Curves, XAxis
from spp.vocabulary import Signal
from spp_cli.main import cli

SOURCE = '''
import numpy as np
import spp.plot
from spp.plot.panels import Curve, Curves, XAxis
from spp.vocabulary import Signal


@spp.plot.figure("mykind")
def mykind(request, *, factor=1.0):
    """The largest magnitude of each layer's activations."""
    rows, step = request.at_step()
    rows = rows[rows["signal"] == Signal.ACTIVATION].sort_values("depth")
    y = factor * rows["abs_max"].to_numpy()
    panel = Curves(
        signal=Signal.ACTIVATION,
        statistic="abs_max",
        x_axis=XAxis("layer", len(y)),
        title="largest magnitude",
        ylabel="activations\\nlargest magnitude",
        curves=(Curve.of("largest", np.arange(len(y)), y),),
    )
    return spp.plot.Drawing(((panel,),), step)
'''


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[spp.Trace]:
    """A saved run, in a folder where a module registers a kind."""
    (tmp_path / "my_figures.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    trace = spp.trace(spp.models.build("ffn", input_shape=(1, 4, 4)), spp.data.gaussian(4, (1, 4, 4), seed=0))
    trace.save("saved")
    yield trace
    spp.plot.FIGURES.unregister("mykind")
    del sys.modules["my_figures"]


def test_a_kind_from_outside_is_drawn_by_name(run: spp.Trace) -> None:
    import my_figures  # type: ignore[import-not-found]  # noqa: F401

    figure = run.plot("mykind", factor=2.0, style="paper")
    (panel,) = figure.panels
    assert isinstance(panel, Curves)
    rows = run.frame[run.frame["signal"] == Signal.ACTIVATION].sort_values("depth")
    np.testing.assert_array_equal(panel.curves[0].y, 2 * rows["abs_max"])
    np.testing.assert_array_equal(figure.artists_[0].curves[0].get_ydata(), panel.curves[0].y)
    assert figure.kind == "mykind" and "of activations over" in figure.caption
    assert spp.plot.FIGURES.describe("mykind") == "The largest magnitude of each layer's activations."
    with pytest.raises(UnknownNameError, match=r"unknown kind 'mykin'\. Did you mean 'mykind'"):
        run.plot("mykin")
    with pytest.raises(TypeError, match="factr"):
        run.plot("mykind", factr=2.0)


def test_a_kind_from_outside_is_drawn_on_the_command_line(run: spp.Trace) -> None:
    done = CliRunner().invoke(cli, ["plot", "saved", "--plugin", "my_figures", "--kind", "mykind"])
    assert done.exit_code == 0, done.output
    assert Path("saved/mykind.png").read_bytes().startswith(b"\x89PNG")
    listed = CliRunner().invoke(cli, ["list", "kinds"])
    assert "The largest magnitude of each layer's activations." in listed.output


def test_a_name_is_taken_once() -> None:
    with pytest.raises(InputError, match=r"unique; got 'layers' once more"):
        spp.plot.figure("layers")(spp.plot.FIGURES["layers"])
    assert Curve.of("", [0.0], np.zeros(1)).zero.all() and XAxis("layer", 1).ticks == ()
