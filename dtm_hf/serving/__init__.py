"""Speech for many at once: what a server and a web page have in common, and the server. It trains nothing."""
