"""Where the page listens and who may ask: options and accounts; `guard.py` stands before every address."""

from app.door.accounts import Accounts, Hash
from app.door.options import Door, bracketed, make_hash

__all__ = ["Accounts", "Door", "Hash", "bracketed", "make_hash"]
