"""The console: a page at `/_wsflow/`, to try an app by hand and to see what its server is doing."""
