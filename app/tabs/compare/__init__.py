"""Compare: two or more encoders on the same images, where `jepack app` was given several."""

from app.shell import Tab
from app.tabs.compare.draw import lay_out

TAB = Tab(title="Compare", place=50, lay_out=lay_out, applies=lambda desk: bool(desk.beside))
