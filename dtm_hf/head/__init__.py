"""The flow head: the small network that is trained beside the frozen backbone."""
