"""Files over SSH: a program of its own, started for one SFTP or scp session and gone with it.

Only the standard library: it starts in a moment and is small. Its own process, because files
block: a disk that does not answer must not stop the daemon, and so neither its descriptors nor its
memory nor its time are taken from the other sessions. It speaks SFTP or scp on descriptors 0 and
1, and tells on descriptor 3 what it does to files; it knows nothing of SSH.
"""

TELL = 3
"""The descriptor on which the daemon hears what happens to files."""

DRAFT_ORDER, USUAL_ORDER = "draft-order", "usual-order"
"""In which order a client sends the two paths of a symbolic link."""
