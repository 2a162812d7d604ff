"""Silence is a way of showing progress."""

from histocli.base.progress import silent


def test_silence_takes_everything_and_says_nothing(capsys):
    with silent("drawing", 3) as bar:
        bar.advance()
        bar.advance(2, "loss 0.1")
    with silent("unknown length", None) as bar:
        bar.advance(0)
    assert capsys.readouterr() == ("", "")
