"""The verbs, a file each: argv -> configuration -> one call -> print. Nothing heavy is imported before it is needed."""
