"""Clean: what of the data should be looked at, and what is to be done with it."""

from app.shell import Tab
from app.tabs.clean.draw import lay_out

TAB = Tab(title="Clean", place=40, lay_out=lay_out)
