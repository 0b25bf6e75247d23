"""Dead letters: stores failed steps and redrives them."""
