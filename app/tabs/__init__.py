"""The tabs of the page, a folder each. How one is added: CONTRIBUTING.md."""
