"""Health: whether the encoder is sound, in words, and what that rests on."""

from app.shell import Tab
from app.tabs.health.draw import lay_out

TAB = Tab(title="Health", place=60, lay_out=lay_out)
