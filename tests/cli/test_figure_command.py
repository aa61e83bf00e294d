"""``bilens figure``: a saved result as a file for a paper."""

import pytest

from tests.conftest import Make


def test_a_saved_result_is_drawn(run, tmp_path):
    found = Make().cp()
    found.save(tmp_path / "cp.safetensors")
    code, out, err = run("figure", tmp_path / "cp.safetensors", "-o", tmp_path / "cp.svg")
    assert (code, err) == (0, "")
    assert out == f"Wrote {tmp_path / 'cp.svg'}: CP, The 7 strongest of 7 hidden units\n"
    assert b"<svg" in (tmp_path / "cp.svg").read_bytes()


@pytest.mark.parametrize(
    ("file", "output", "said"),
    [
        ("cp", "cp.gif", "--output must end in .svg, .pdf, .png; got cp.gif."),
        ("nothing", "cp.svg", "must be a file that .save(path) wrote; got nothing there."),
        ("form", "cp.svg", "must hold a result that has a figure; got QuadraticForm."),
    ],
)
def test_what_has_no_figure_is_refused_in_a_line(run, tmp_path, file, output, said):
    Make().cp().save(tmp_path / "cp")
    Make().quadratic().save(tmp_path / "form")
    code, out, err = run("figure", tmp_path / file, "-o", tmp_path / output)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / output).exists()
