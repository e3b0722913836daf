"""The training loop's parts and the contract `Task`; they know no system."""
