"""The contracts of the services: generated from proto/ by `drw generate`, except `contract`."""
