"""What endpoints are made of: bodies, routes, sessions, lists. `wsp.web` wires the endpoints into an application."""
