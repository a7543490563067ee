"""The suite's style for every plot, as in the notebooks, and no figure left open."""

import matplotlib.pyplot as plt
import pytest

from utils.reporting import style


@pytest.fixture(autouse=True)
def _style():
    with plt.rc_context():
        style.use_style()
        yield
    plt.close("all")
