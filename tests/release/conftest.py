import pytest

from tests.release.helpers import save_another, save_random
from utils.machine import runtime


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory):
    """Gives the folder of random weights of a kind and seed, and rows without targets; each is made once."""
    made, workspace = {}, tmp_path_factory.mktemp("release")

    def get(kind, seed=0):
        folder = workspace / kind.replace(", ", "-").replace(" ", "-") / f"seed-{seed}" / "averaged"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runtime, "workspace", lambda: workspace)
            if seed and (kind, seed) not in made:
                made[kind, seed] = made[kind, 0] if (kind, 0) in made else get(kind)
                save_another(made[kind, seed][0], folder, seed)
            elif (kind, seed) not in made:
                made[kind, seed] = folder, save_random(kind, folder)
        return folder, made[kind, seed][1].copy()

    return get
