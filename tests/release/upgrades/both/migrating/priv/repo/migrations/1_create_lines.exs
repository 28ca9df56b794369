# create_lines: the Ecto.Migrator of the example reads the name of this file only.
