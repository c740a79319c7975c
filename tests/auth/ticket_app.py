"""Served in processes of its own."""

from tests.auth.users import KEY, User, app_of
from wsflow.auth import Ticket

app = app_of(Ticket(User, key=KEY))
