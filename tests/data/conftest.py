import pytest

from utils.config import Config


@pytest.fixture
def plain():
    return Config.make("demo", fold_by="kfold", group_column="")
