"""Probe: labels by clicking, and at once how well the encoder tells them apart."""

from app.shell import Tab
from app.tabs.probe.draw import lay_out

TAB = Tab(title="Probe", place=30, lay_out=lay_out)
