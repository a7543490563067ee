"""The settings of a run as a table."""

import dataclasses

from utils.config import Config
from utils.reporting.settings import SECTIONS, settings_table


def test_every_setting_stands_in_the_column_of_its_origin():
    config = Config.make("demo", lr=1e-4, target_columns="a,b", epochs=5)
    table = settings_table(config).data.map(lambda cell: cell.replace("\u00a0", " "))
    assert table.index.tolist() == list(SECTIONS.values())
    assert table.loc["optimization", "changed here"] == "lr = 0.0001", "epochs=5 is the preset's anyway"
    assert table.loc["data", "changed here"] == "target_columns = a,b"
    assert "swa_every = 2" in table.loc["averaging", "set by the preset"]
    assert "optimizer = adamw" in table.loc["optimization", "default"]
    for name, cell in table.stack().items():
        assert "run = ," not in cell, name
    shown = table.to_numpy().sum()
    for field in dataclasses.fields(Config):
        assert (f"{field.name} = " in shown) == (getattr(config, field.name) not in ("", ())), field.name


def test_a_section_begins_at_a_field_that_exists():
    assert set(SECTIONS) <= {field.name for field in dataclasses.fields(Config)}
