"""``bilens train …``, a file each."""
