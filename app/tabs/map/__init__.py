"""Map: all images as points, near where they look alike."""

from app.shell import Tab
from app.tabs.map.draw import lay_out
from app.tabs.map.routes import routes

TAB = Tab(title="Map", place=20, lay_out=lay_out, routes=routes)
