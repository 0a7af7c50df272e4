"""The vector index over a folder of images, and the page that looks into it. No torch here."""
