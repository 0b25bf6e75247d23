"""Kill switch of services: follow the list of kills, reject killed calls and cancel work in progress."""
