"""The command line, one file per verb: argv -> configuration -> one call -> print. Heavy imports are deferred."""
