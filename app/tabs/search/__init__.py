"""Search: an image, and what lies nearest to it."""

from app.shell import Tab
from app.tabs.search.draw import lay_out
from app.tabs.search.routes import routes

TAB = Tab(title="Search", place=10, lay_out=lay_out, routes=routes)
