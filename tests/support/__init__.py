"""What several tests share: the real components, and how to get hold of them."""
