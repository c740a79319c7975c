"""Who is it: ``on_connect`` functions that yield a typed user, or refuse the connection.

``Bearer`` takes a JSON Web Token, ``Ticket`` a token that an HTTP endpoint has issued for one
connection, ``SessionCookie`` the session of a web application. Each is registered as a function::

    auth = Bearer(User, key=KEY)
    app.on_connect(auth)

Handlers then ask for a ``User``, or for ``Annotated[User, Requires("admin")]``.
``docs/security.md`` shows each with a browser. It needs ``wsflow[auth]``.
"""

try:
    from wsflow.auth.bearer import Bearer
    from wsflow.auth.cookie import SessionCookie
    from wsflow.auth.ticket import RedeemedStore, Ticket
except ModuleNotFoundError as exc:
    if exc.name not in ("jwt", "itsdangerous"):
        raise
    raise ModuleNotFoundError(
        f"wsflow.auth needs {exc.name}, which is not installed: pip install 'wsflow[auth]'",
        name=exc.name,
    ) from None

__all__ = ["Bearer", "RedeemedStore", "SessionCookie", "Ticket"]
