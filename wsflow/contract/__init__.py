"""What an app says to the people on the other side of its sockets: its contract, and what is made
of that.

``describe`` reads it off an app. ``asyncapi``, ``jsonschema`` and others write it down, and
``changes`` compares two.
"""
