"""The command line: a thin face on `Library`.

`main` reads settings and turns errors into exit codes, `session` opens the library, the `*_cmds` modules are the commands,
`views` says which columns and keys a record has, and `output` is the only place that prints.
"""
