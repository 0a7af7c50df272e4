"""Map: all images as points, near where they look alike."""

from app.colouring import register_family
from app.shell import Tab
from app.tabs.map.by_column import columns
from app.tabs.map.draw import lay_out
from app.tabs.map.routes import routes

register_family(columns)
TAB = Tab(title="Map", place=20, lay_out=lay_out, routes=routes)
