"""Probe: labels by clicking, and at once how well the encoder tells them apart."""

from app.colouring import register, register_family
from app.shell import Tab
from app.tabs.probe.colours import by_class, by_sureness, kept
from app.tabs.probe.draw import lay_out

TAB = Tab(title="Probe", place=30, lay_out=lay_out)
register("prediction", "Probe: class", by_class)
register("sureness", "Probe: how sure", by_sureness)
register_family(kept)
