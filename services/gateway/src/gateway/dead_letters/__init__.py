"""Dead letters: listing, redriving and deleting them."""
