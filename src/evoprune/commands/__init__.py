"""What the commands do: one file each, imported only when its command runs."""
